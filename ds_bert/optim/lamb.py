"""LAMB whose trust ratios are exact under DeepSpeed ZeRO.

An ordinary LAMB given a flat partition takes one trust ratio for all tensors in it. This one knows
which elements belong to which tensor, sums the squared norms per tensor over the ranks, and so
makes the same step for any number of ranks.
"""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from ds_bert_kernels.dispatch import implementation
from ds_bert_kernels.reference.lamb import Segment, trust_ratios
from torch import Tensor

from ds_bert.errors import ConfigurationError
from ds_bert.optim import entry
from ds_bert.optim.flat_partition import find_pieces

_Groups = Iterable[Tensor] | Iterable[dict[str, Any]]


class Lamb(torch.optim.Optimizer):
    """LAMB (You et al. 2020, Algorithm 2) for plain tensors and for ZeRO's flat partitions.

    Call `bind()` once after `deepspeed.initialize` and before a checkpoint is loaded. All tensors
    are kept in a single parameter group, the weight decay per tensor beside it: then every ZeRO
    wrapper makes one flat partition and calls `step()` once, which costs one small all-reduce.

    Each tensor's, or the flat partition's, state holds `step` (0-dim fp32 on the CPU: steps done),
    `exp_avg` and `exp_avg_sq` (fp32, in the parameter's shape).

    Attributes:
        grad_scale: scalar on the device that gradients are divided by; None for 1. With `found_inf`
            torch's protocol for loss scaling.
        found_inf: scalar on the device; not 0: the step changes nothing but the count of steps,
            which the host keeps: call `take_back` once it knows.
    """

    _step_supports_amp_scaling = True
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(
        self,
        params: _Groups,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        bias_correction: bool,
        min_trust_ratio: float | None,
        max_trust_ratio: float | None,
        adapt_without_decay: bool,
        pre_normalize_gradients: bool,
    ):
        """Take the model's tensors; the defaults of options are those of `LAMB`.

        Args:
            params: tensors, or groups {"params": tensors, "weight_decay": float}; frozen and empty
                tensors are left out, as DeepSpeed does.
            lr: learning rate.
            betas: decay rates of the moments.
            eps: added to the square root of the second moment.
            weight_decay: for tensors of groups that do not say otherwise; decoupled, inside the
                trust ratio.
            bias_correction: divide the moments by 1 - beta^step.
            min_trust_ratio: lower limit of the trust ratio; None for no limit.
            max_trust_ratio: upper limit of the trust ratio; None for no limit.
            adapt_without_decay: False: trust ratio 1 for tensors without weight decay.
            pre_normalize_gradients: divide all gradients by their global norm (NVLAMB).
        """
        self._tensors, weight_decays = _merge_groups(params, weight_decay)
        # Of each tensor: weight_decay and adaptive of its segments.
        self._options = [(decay, adapt_without_decay or decay != 0) for decay in weight_decays]
        self._segments = [
            [Segment(0, tensor.numel(), 0, *options)]
            for tensor, options in zip(self._tensors, self._options, strict=True)
        ]
        self._bound = False
        self._norms: list[tuple[list[Tensor], Tensor]] = []  # of the last step
        self._process_group: dist.ProcessGroup | None = None
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "bias_correction": bias_correction,
            "min_trust_ratio": min_trust_ratio,
            "max_trust_ratio": max_trust_ratio,
            "pre_normalize_gradients": pre_normalize_gradients,
        }
        super().__init__(self._tensors, defaults)

    @torch.no_grad()
    def bind(self, process_group: dist.ProcessGroup | None = None) -> None:
        """Find the model's tensors in the flat partition that DeepSpeed put in their place.

        Where the optimizer still holds the model's own tensors (ZeRO stage 0 in fp32) there is
        nothing to find. The state is allocated here: DeepSpeed links it to the model's tensors at
        the first step and never again.

        Args:
            process_group: the data-parallel ranks; None for all ranks. Every rank must call.

        Raises:
            RuntimeError: on every rank, if on any rank the partition is not laid out as expected.
        """
        if not self._holds_own_tensors():
            pieces = find_pieces(self._tensors, self._held(), process_group)
            self._segments = [
                [Segment(p.start, p.length, p.tensor, *self._options[p.tensor]) for p in pieces]
            ]
            self._bound, self._process_group = True, process_group
        for tensor in self._held():
            self._state_of(tensor)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Make one update; under a flat partition every rank must call.

        Args:
            closure: re-evaluates the model and returns its loss; optional.

        Returns:
            the closure's loss, or None.

        Raises:
            RuntimeError: the optimizer holds a flat partition and `bind()` was not called.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._bound and not self._holds_own_tensors():
            raise RuntimeError(
                "Lamb holds a partition whose layout it does not know; call bind() once after "
                "deepspeed.initialize"
            )
        held = zip(self._held(), self._segments, strict=True)
        work = [(t, t.grad, segments) for t, segments in held if t.grad is not None]
        assert work or not self._bound, "DeepSpeed sets the partition's gradient on every rank"
        gradient_scale = self._gradient_scale([gradient for _, gradient, _ in work])
        self._norms.clear()
        for tensor, gradient, segments in work:
            self._update(tensor, gradient, segments, gradient_scale)
        return loss

    def trust_ratios(self) -> list[tuple[Tensor, float]]:
        """The model's tensors and what the last step of each was scaled by; waits for the device.

        Tensors that no trust ratio applies to are left out.
        """
        group = self.param_groups[0]
        limits = (group["min_trust_ratio"], group["max_trust_ratio"])
        is_scaled = {
            id(tensor): adaptive
            for tensor, (_, adaptive) in zip(self._tensors, self._options, strict=True)
        }
        return [
            (tensor, ratio)
            for tensors, norms in self._norms
            for tensor, ratio in zip(tensors, trust_ratios(norms, *limits).tolist(), strict=True)
            if is_scaled[id(tensor)]
        ]

    def take_back(self) -> None:
        """The last step was skipped on the device: do not count it."""
        for state in self.state.values():
            state["step"] -= 1

    def _update(
        self,
        parameter: Tensor,
        gradient: Tensor,
        segments: list[Segment],
        gradient_scale: Tensor | None,
    ) -> None:
        group, state = self.param_groups[0], self._state_of(parameter)
        state["step"] += 1
        partition = parameter.view(-1)
        kernel = implementation("lamb", partition)
        moments = (state["exp_avg"].view(-1), state["exp_avg_sq"].view(-1))
        constants = {
            "eps": group["eps"],
            "bias_corrections": _bias_corrections(group, float(state["step"])),
        }
        squared_norms = kernel.lamb_moments(
            partition,
            gradient.reshape(-1),
            *moments,
            segments,
            len(self._tensors) if self._bound else 1,
            betas=group["betas"],
            gradient_scale=gradient_scale,
            found_inf=self.found_inf,
            **constants,
        )
        squared_norms = self._sum_over_partitions(squared_norms)
        self._norms.append((self._tensors if self._bound else [parameter], squared_norms))
        kernel.lamb_apply(
            partition,
            *moments,
            segments,
            squared_norms,
            lr=group["lr"],
            min_trust_ratio=group["min_trust_ratio"],
            max_trust_ratio=group["max_trust_ratio"],
            found_inf=self.found_inf,
            **constants,
        )

    def _gradient_scale(self, gradients: list[Tensor]) -> Tensor | None:
        if not (gradients and self.param_groups[0]["pre_normalize_gradients"]):
            return None if self.grad_scale is None else 1 / self.grad_scale
        squares = torch.stack([gradient.square().sum() for gradient in gradients])
        norm = self._sum_over_partitions(squares.sum()).sqrt()
        return torch.where(norm > 0, 1 / norm, 1.0)

    def _sum_over_partitions(self, values: Tensor) -> Tensor:
        if self._bound and dist.is_initialized() and dist.get_world_size(self._process_group) > 1:
            dist.all_reduce(values, group=self._process_group)
        return values

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
            state["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
        return state

    def _held(self) -> list[Tensor]:
        return self.param_groups[0]["params"]

    def _holds_own_tensors(self) -> bool:
        same_number = len(self._held()) == len(self._tensors)
        return same_number and all(map(operator.is_, self._held(), self._tensors))


def _merge_groups(params: _Groups, weight_decay: float) -> tuple[list[Tensor], list[float]]:
    """The tensors that DeepSpeed will optimize and the weight decay of each, in order."""
    tensors: list[Tensor] = []
    weight_decays: list[float] = []
    for item in params:
        group: dict[str, Any] = item if isinstance(item, dict) else {"params": [item]}
        unknown = group.keys() - {"params", "weight_decay"}
        if unknown:
            raise ValueError(f"Lamb's groups may set weight_decay only, found {sorted(unknown)}")
        trainable = [t for t in group["params"] if t.requires_grad and t.numel() > 0]
        tensors += trainable
        weight_decays += [group.get("weight_decay", weight_decay)] * len(trainable)
    return tensors, weight_decays


def _bias_corrections(group: dict[str, Any], step: float) -> tuple[float, float]:
    if not group["bias_correction"]:
        return 1.0, 1.0
    beta1, beta2 = group["betas"]
    return 1 - beta1**step, 1 - beta2**step


def _check_limits(options: dict[str, Any]) -> None:
    low, high = options["min_trust_ratio"], options["max_trust_ratio"]
    if low is not None and high is not None and low > high:
        raise ConfigurationError(f"min_trust_ratio {low} is above max_trust_ratio {high}")


_LIMIT = entry.Option(
    lambda value: value is None or entry.is_positive(value), "a number above 0, or null"
)

LAMB = entry.OptimizerEntry(
    build=Lamb,
    options={
        "lr": entry.LEARNING_RATE,
        "betas": entry.BETAS,
        "eps": entry.EPS,
        "weight_decay": entry.WEIGHT_DECAY,
        "bias_correction": entry.flag(True),
        "min_trust_ratio": _LIMIT,
        "max_trust_ratio": _LIMIT,
        "adapt_without_decay": entry.flag(True),
        "pre_normalize_gradients": entry.flag(False),
    },
    state_bytes=8,  # two moments in fp32
    check=_check_limits,
    bind=Lamb.bind,
)
