"""DeepSpeed's optimizer for bf16 weights with fp32 sums, without waits for the device.

DeepSpeed's own takes a norm of each tensor, asks the host whether it is finite, asks again whether
to clip, scales each tensor, and adds a gradient up in two kernels. Here the norm of all sums, the
factor that clips and whether the step is to be skipped stay on the device, and go to the wrapped
optimizer by torch's protocol for loss scaling: `grad_scale`, which gradients are divided by, and
`found_inf`, which leaves everything as it is where it is not 0.

With `scatter` sums over ranks go to the rank that needs them alone (ds_bert/optim/scatter.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from deepspeed import comm as dist
from deepspeed.runtime import bf16_optimizer as deepspeed_bf16_optimizer
from deepspeed.runtime import compiler as deepspeed_compiler
from deepspeed.runtime import engine as deepspeed_engine
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from torch import Tensor
from torch.optim import Optimizer

from ds_bert.optim.overlap import EarlyReduceScatter

_ROW = 1 << 16  # elements; sums of longer rows lose digits on a CPU


class WaitlessBF16Optimizer(BF16_Optimizer):
    """Steps without asking the host; `skipped` tells on the device how the last step went.

    The host counts every step as made, in the optimizer and the schedule. Once it knows of a
    skipped one, and before the next, `take_back` has to set that right.
    """

    skipped: Tensor | None = None
    _wire_dtype: torch.dtype | None = None  # None: DeepSpeed's all-reduce, all sums on all ranks
    _early: list[EarlyReduceScatter] | None = None  # None: after the backward pass

    def scatter(self, dtype: torch.dtype) -> None:
        """Add gradients over ranks by one reduce-scatter of each parameter group, in `dtype`."""
        self._wire_dtype = dtype
        self.reduce_gradients = self._reduce_scatter  # the engine looks for that name

    def scatter_early(self, is_last: Callable[[], bool], bucket_size: int) -> None:
        """Do so bucket by bucket; the largest group's in the last backward pass of a step.

        The other groups, all biases and norms, follow behind it: were two sent as they come, a
        rank where they come in another order would wait for ever.
        """
        assert self._wire_dtype is not None
        self._is_last = is_last
        sizes = [len(flat) for flat in self.fp32_groups_gradients_flat]
        self._largest = sizes.index(max(sizes))
        self._early = [
            EarlyReduceScatter(
                flat, [part.numel() for part in parts], bucket_size, self._wire_dtype, group
            )
            for flat, parts, group in zip(
                self.fp32_groups_gradients_flat,
                self.fp32_groups_gradients,
                self.real_dp_process_group,
                strict=True,
            )
        ]

    @torch.no_grad()
    def _reduce_scatter(self, **_: Any) -> None:
        """Leave means over ranks in this rank's partitions, and what nobody needs elsewhere."""
        self._zero_sums_of_nothing()
        if self._early is not None:
            for group in sorted(range(len(self._early)), key=lambda i: i != self._largest):
                self._early[group].finish(self.fp32_groups_gradient_flat_partition[group])
            return
        groups = zip(
            self.fp32_groups_gradients_flat,
            self.fp32_groups_gradient_flat_partition,
            self.real_dp_process_group,
            strict=True,
        )
        for flat, partition, group in groups:
            if (world_size := dist.get_world_size(group)) > 1:
                sent = flat.to(self._wire_dtype)
                own = sent.view(world_size, -1)[dist.get_rank(group)]
                dist.reduce_scatter_fn(own, sent, group=group)  # in place
                torch.mul(own, 1 / world_size, out=partition)

    def _norm(self) -> Tensor:
        """Of the gradients that are to be clipped, the same on all ranks."""
        if self._wire_dtype is None:
            return global_norm(self.fp32_groups_actual_gradients_flat)
        norm = global_norm(self.fp32_groups_gradient_flat_partition)  # padding is zero
        if dist.get_world_size(self.dp_process_group) == 1:
            return norm
        squares = norm.square()
        dist.all_reduce(squares, group=self.dp_process_group)
        return squares.sqrt()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Clip and update, or skip, as the sums of the gradients say."""
        self._zero_sums_of_nothing()
        if not supports(self.optimizer):
            super().step(closure)
            return
        norm = self._norm()
        is_finite = norm.isfinite()
        self.skipped = ~is_finite
        self.overflow, self._global_grad_norm = False, torch.where(is_finite, norm, torch.inf)
        self.optimizer.found_inf = self.skipped.float()
        self.optimizer.grad_scale = (
            ((norm + 1e-6) / self.clip_grad).clamp(min=1.0) if self.clip_grad > 0 else None
        )
        partitions = zip(
            self.fp32_groups_flat_partition, self.fp32_groups_gradient_flat_partition, strict=True
        )
        for partition, gradient in partitions:
            partition.grad = gradient
        self.optimizer.step()
        self._lazy_init_hp_params_optimizer_state()
        self.update_lp_params()
        # The engine clears the sums after each step.

    @torch.no_grad()
    def _update_hp_grad(
        self, lp: Tensor, group_idx: int, param_idx: int, clear_lp_grads: bool
    ) -> None:
        """Add a gradient to its fp32 sum in one kernel; the first of a step becomes the sum."""
        if lp.grad is None:
            return
        total, has_one = self.fp32_groups_gradients[group_idx], self.fp32_groups_has_gradients
        add = Tensor.add_ if has_one[group_idx][param_idx] else Tensor.copy_
        add(total[param_idx].view_as(lp), lp.grad)
        lp._hp_grad = total[param_idx]  # type: ignore[attr-defined]
        has_one[group_idx][param_idx] = True
        if clear_lp_grads:
            lp.grad.zero_()
        if self._early is not None and group_idx == self._largest and self._is_last():
            self._early[group_idx].arrived(param_idx)

    def clear_hp_grads(self) -> None:
        """Forget the sums: the next gradients replace them, so nothing has to be zeroed."""
        self.fp32_groups_has_gradients = [
            [False] * len(sums) for sums in self.fp32_groups_gradients
        ]

    @torch.no_grad()
    def _zero_sums_of_nothing(self) -> None:
        """Zero the old sums of tensors that got no gradient in this step, such as unused heads."""
        for sums, has_one in zip(
            self.fp32_groups_gradients, self.fp32_groups_has_gradients, strict=True
        ):
            for number, total in enumerate(sums):
                if not has_one[number]:
                    total.zero_()
                    has_one[number] = True

    def get_grads_for_reduction(self) -> Any:
        """DeepSpeed's question before its all-reduce."""
        self._zero_sums_of_nothing()
        return super().get_grads_for_reduction()


def supports(optimizer: Optimizer) -> bool:
    """Whether an optimizer knows torch's `grad_scale` and `found_inf`."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def global_norm(parts: list[Tensor]) -> Tensor:
    """The 2-norm of all elements together: an fp32 scalar, by one pass over the memory."""
    norms = []
    for part in parts:
        rows = part[: part.numel() // _ROW * _ROW].view(-1, _ROW)
        norms.append(torch.linalg.vector_norm(rows, dim=1))
        norms.append(torch.linalg.vector_norm(part[rows.numel() :]).view(1))
    return torch.linalg.vector_norm(torch.cat(norms))


@contextmanager
def waitless() -> Iterator[None]:
    """Let `deepspeed.initialize` take this class for its own.

    Reports of memory are left out: six times they collect garbage first, two seconds on a CPU. Its
    Muon, which it imports to know that ours is another optimizer, stays uncompiled: to decorate it
    would import torch's compiler, a second more.
    """
    with (
        mock.patch.object(deepspeed_compiler, "compile", lambda: lambda function: function),
        mock.patch.object(deepspeed_engine, "BF16_Optimizer", WaitlessBF16Optimizer),
        mock.patch.object(deepspeed_bf16_optimizer, "see_memory_usage", lambda *_, **__: None),
    ):
        yield


def skipped(engine: Any) -> bool | Tensor:
    """Whether the engine's last step was skipped and the host does not know it yet."""
    found = getattr(engine.optimizer, "skipped", None)
    return False if found is None else found


def take_back(engine: Any) -> None:
    """Count the last step, which was skipped on the device, as DeepSpeed counts skipped steps."""
    engine.skipped_steps += 1
    engine.lr_scheduler.take_back()
    optimizer = engine.optimizer.optimizer
    if hasattr(optimizer, "take_back"):  # others count on the device
        optimizer.take_back()
