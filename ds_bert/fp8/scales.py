"""Stored scales: those of a step come from the largest values of the steps before it.

Scales stay as they are for all micro-batches of an optimizer step. What was the largest value of
each tensor comes out of the backward pass as the gradient of a probe, which no number depends on:
so a compiled layer changes nothing outside of it, and a pass without gradients records nothing.

All that goes into a compiled layer is a scalar with memory of its own. Of vectors and of views the
compiler would compare sizes and offsets with those of a batch, and make another graph now and then.

Source: Transformer Engine's DelayedScaling (history, its largest value, a margin).
"""

from typing import Any, NamedTuple

import torch
from ds_bert_kernels.reference.fp8_cast import scale_for
from torch import Tensor

HISTORY = 16  # steps
# Bits of room for larger values than in any of those; in a format with exponents they cost nothing
# but the smallest numbers.
MARGIN = 1
FORMATS = (torch.float8_e4m3fn, torch.float8_e5m2)  # of a product's input, and of its gradient


class Place(NamedTuple):
    """What the two tensors of a product are scaled by: its input, and its output's gradient.

    Attributes:
        x, grad: fp32 [], scales.
        x_probe, grad_probe: fp32 [], whose gradients are the largest absolute values.
        own: bool [] on the CPU, which is read without waiting and known to no compiler: each
            tensor is scaled by its own largest value instead.
    """

    x: Tensor
    grad: Tensor
    x_probe: Tensor
    grad_probe: Tensor
    own: Tensor


class Scales:
    """Scales of P products.

    Args:
        num_products: P.
        device: of the products.
        is_delayed: keep a history; else tensors are always scaled by their own largest value.

    Attributes:
        maxima: fp32 [P, 2], largest absolute values so far in this step.
    """

    def __init__(self, num_products: int, device: torch.device, is_delayed: bool = True):
        self._is_delayed = is_delayed
        self.maxima = torch.zeros(num_products, 2, device=device)
        self._probe = torch.zeros_like(self.maxima).requires_grad_()
        self._probe.register_post_accumulate_grad_hook(self._record)
        self._history = torch.zeros(HISTORY, num_products, 2, device=device)
        self._probes, self._cells = (
            [torch.zeros((), device=device) for _ in range(2 * num_products)] for _ in range(2)
        )
        self._steps = 0
        self._take(torch.ones_like(self.maxima), own=True)

    def places(self) -> list[Place]:
        """Of each product, for one forward pass."""
        probes, cells = _Spread.apply(self._probe, *self._probes), self._cells
        columns = (cells[::2], cells[1::2], probes[::2], probes[1::2])
        return [Place(*row, self._own) for row in zip(*columns, strict=True)]

    @torch.no_grad()
    def finish_step(self, maxima: Tensor | None = None) -> None:
        """Go on to the next step, after the last backward pass of one.

        What was not finite says nothing about the next steps, and is left out.

        Args:
            maxima: `maxima` over all ranks; None: there is but one.
        """
        found = self.maxima if maxima is None else maxima
        found = found.where(found.isfinite(), 0.0)
        self._history = torch.cat([found[None], self._history[:-1]])
        self._steps += 1
        self.maxima = torch.zeros_like(self.maxima)
        self._from_history()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; the same on all ranks."""
        return {"history": self._history, "steps": self._steps}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`; with that of other layers begin anew."""
        if state["history"].shape == self._history.shape:
            self._history = state["history"].to(self._history.device, copy=True)
            self._steps = state["steps"]
            self._from_history()

    def fixed(self) -> Tensor | None:
        """Of this step, fp32 [P, 2]; None: each tensor's own. No later step changes them."""
        return None if bool(self._own) else self._scales

    def fix(self, scales: Tensor | None) -> None:
        """Take what `fixed` gave."""
        if scales is not None:
            self._take(scales.to(self.maxima), own=False)

    def _from_history(self) -> None:
        """Before the first step there is none. A tensor that was always zero gets 1."""
        amax = self._history.amax(0)
        columns = zip(amax.unbind(1), FORMATS, strict=True)
        scales = torch.stack([scale_for(of, dtype, MARGIN) for of, dtype in columns], 1)
        own = self._steps == 0 or not self._is_delayed
        self._take(torch.where(amax > 0, scales, 1.0), own)

    def _take(self, scales: Tensor, own: bool) -> None:
        self._scales, self._own = scales, torch.tensor(own)
        torch._foreach_copy_(self._cells, list(scales.flatten().unbind()))

    @torch.no_grad()
    def _record(self, probe: Tensor) -> None:
        """After each backward pass; a maximum, where gradients would be added up."""
        assert probe.grad is not None
        torch.maximum(self.maxima, probe.grad, out=self.maxima)
        probe.grad = None


class _Spread(torch.autograd.Function):
    """Scalars whose gradients are those of a matrix [P, 2], without a copy."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, *scalars: Tensor) -> tuple[Tensor, ...]:
        return tuple(scalar.detach() for scalar in scalars)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return torch.stack(grads).view(-1, 2), *([None] * len(grads))
