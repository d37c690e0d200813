"""Adam and AdamW: torch's, and the same without bias correction."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from ds_bert.optim.entry import (
    BETAS,
    EPS,
    LEARNING_RATE,
    WEIGHT_DECAY,
    OptimizerEntry,
    flag,
)


class UncorrectedAdam(torch.optim.Optimizer):
    """Adam whose moments are used as they are, as in Google's BERT; right element by element.

        g = g + decay x                        (L2 alone)
        m = b1 m + (1 - b1) g                  v = b2 v + (1 - b2) g^2
        x = x - lr (m / (sqrt(v) + eps) + decay x)      (without decay x for L2)

    torch's fused kernel does the work: at step infinity its corrections 1 - beta^step are 1.
    The state of each tensor holds `step` (fp32 scalar: steps done), `exp_avg` and `exp_avg_sq`.

    Attributes:
        grad_scale: scalar on the device that gradients are divided by; None for 1. With `found_inf`
            torch's protocol for loss scaling.
        found_inf: scalar on the device; not 0: the step changes nothing and does not count.

    Source: google-research/bert, optimization.py (AdamWeightDecayOptimizer); L2: Kingma and Ba.
    """

    _step_supports_amp_scaling = True
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(self, groups: list[dict[str, Any]], *, is_decoupled: bool, **options: Any):
        """Take groups of tensors, and lr, betas, eps and weight_decay.

        Args:
            groups: as torch takes them.
            is_decoupled: decay beside the moments (AdamW), else added to the gradient (L2).
            options: defaults of the groups.
        """
        # "fused" lets torch put `step` of a loaded state on the tensor's device.
        super().__init__(groups, {**options, "fused": True})
        self.is_decoupled = is_decoupled

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Make one update; returns the closure's loss, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    self._update(tensor, tensor.grad, group)
        return loss

    def _update(self, tensor: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[tensor]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=tensor.device)
            state["exp_avg"] = torch.zeros_like(tensor)
            state["exp_avg_sq"] = torch.zeros_like(tensor)
        state["step"] += 1 if self.found_inf is None else 1 - self.found_inf
        beta1, beta2 = group["betas"]
        step = torch.full_like(state["step"], math.inf)
        adam(
            [tensor], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [step],
            fused=True, grad_scale=self.grad_scale, found_inf=self.found_inf,
            decoupled_weight_decay=self.is_decoupled, amsgrad=False, maximize=False,
            beta1=beta1, beta2=beta2, lr=group["lr"], eps=group["eps"],
            weight_decay=group["weight_decay"],
        )  # fmt: skip


def _build(
    groups: list[dict[str, Any]],
    betas: tuple[float, float],
    bias_correction: bool,
    adam_w_mode: bool = True,
    **options: Any,
) -> torch.optim.Optimizer:
    options["betas"] = tuple(betas)
    if not bias_correction:
        return UncorrectedAdam(groups, is_decoupled=adam_w_mode, **options)
    kind = torch.optim.AdamW if adam_w_mode else torch.optim.Adam
    return kind(groups, fused=True, **options)


_OPTIONS = {
    "lr": LEARNING_RATE,
    "betas": BETAS,
    "eps": EPS,
    "weight_decay": WEIGHT_DECAY,
    "bias_correction": flag(True),
}
_STATE_BYTES = 8  # two moments in fp32

ADAMW = OptimizerEntry(build=_build, options=_OPTIONS, state_bytes=_STATE_BYTES)
# The decay is decoupled unless `adam_w_mode` is false, as in DeepSpeed; these defaults are its own.
ADAM = OptimizerEntry(
    build=_build,
    options=_OPTIONS
    | {
        "eps": replace(EPS, default=1e-8),
        "weight_decay": replace(WEIGHT_DECAY, default=0.0),
        "adam_w_mode": flag(True),
    },
    state_bytes=_STATE_BYTES,
)
