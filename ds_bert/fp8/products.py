"""A linear layer, and the two of a feed-forward block, with all of their matrix products in fp8.

    y = x w^T + b        dx = dy w        dw = dy^T x        db = dy summed over rows

Tensor cores read fp8 with the summed dimension contiguous in both factors, so x, w and dy are
needed as they are and turned. x and dy are read once for both, dy for its sums as well. Products
are summed in fp32 and rounded to the activations' dtype once, after the bias.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ds_bert.fp8.cast import cast, cast_gradient
from ds_bert.fp8.scales import Place
from ds_bert.fp8.weights import Weight

Gradients = tuple[Tensor | None, ...]


class Operands(NamedTuple):
    """What a product takes beside its input.

    Attributes:
        weight: in fp8.
        place: what its input and its gradient are scaled by.
        fast: let the backward products, too, keep their partial sums in fewer bits.
    """

    weight: Weight
    place: Place
    fast: bool


def linear(x: Tensor, modules: Sequence[nn.Linear], operands: Operands) -> Tensor:
    """The outputs of linear layers side by side, with forward and backward products in fp8.

    An infinity or NaN in an input makes every result computed from it non-finite, so that a check
    of the gradients sees it. Never waits for the device.

    Args:
        x: [T, K] bf16 (fp32 on the CPU), T at least 1.
        modules: whose parameters get the gradients.
        operands: made of those modules.

    Returns:
        [T, N], dtype of x.
    """
    probes, train = _probes(operands), torch.is_grad_enabled()
    return _Linear.apply(x, *probes, operands, train, *_parameters(modules))


def feed_forward(
    x: Tensor,
    modules: tuple[nn.Linear, nn.Linear],
    operands: tuple[Operands, Operands],
    activation: str,
) -> Tensor:
    """Two linear layers with a GELU between them, which is computed where its result is cast.

    Args:
        x: [T, K] bf16 (fp32 on the CPU), T at least 1.
        modules: of K to I and I to N numbers.
        operands: made of those modules.
        activation: the `approximate` of `F.gelu`.

    Returns:
        [T, N], dtype of x.
    """
    inputs = (x, *_probes(*operands), *operands, activation, torch.is_grad_enabled())
    return _FeedForward.apply(*inputs, *_parameters(modules))


def _probes(*operands: Operands) -> list[Tensor]:
    places = [part.place for part in operands]
    return [probe for place in places for probe in (place.x_probe, place.grad_probe)]


def _parameters(modules: Sequence[nn.Linear]) -> list[Tensor]:
    """Weights, then biases: the cast weights are used, but these get the gradients."""
    return [*(module.weight for module in modules), *(module.bias for module in modules)]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        x_probe: Tensor,
        grad_probe: Tensor,
        operands: Operands,
        train: bool,
        *parameters: Tensor,
    ) -> Tensor:
        weight, place, ctx.fast = operands
        made = cast(x, place.x, place.own, transpose=train)
        ctx.sizes = [tensor.shape[0] for tensor in parameters[: len(parameters) // 2]]
        of_x = (made.columns, made.scale, made.amax)
        ctx.save_for_backward(*of_x, weight.columns, weight.scale, place.grad, place.own)
        return _product(made.rows, made.scale, weight.rows, weight.scale, weight.bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:  # type: ignore[override]
        columns, scale, amax, weight, weight_scale, grad_scale, own = ctx.saved_tensors
        made = cast_gradient(grad.contiguous(), grad_scale, own)
        grad_x = _back(made.rows, made.scale, weight, weight_scale, grad, ctx.fast)
        of_weight = _back(made.columns, made.scale, columns, scale, grad, ctx.fast)
        parts = (*of_weight.split(ctx.sizes), *made.sums.split(ctx.sizes))
        return grad_x, amax, made.amax, None, None, *parts


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        x_probe: Tensor,
        inner_probe: Tensor,
        middle_probe: Tensor,
        grad_probe: Tensor,
        first: Operands,
        second: Operands,
        activation: str,
        train: bool,
        *parameters: Tensor,
    ) -> Tensor:
        weight_1, place_1, ctx.fast = first
        weight_2, place_2, _ = second
        made = cast(x, place_1.x, place_1.own, transpose=train)
        inner = _product(made.rows, made.scale, weight_1.rows, weight_1.scale, weight_1.bias)
        middle = cast(inner, place_2.x, place_2.own, activation=activation, transpose=train)
        ctx.activation = activation
        ctx.save_for_backward(
            *(made.columns, made.scale, made.amax, weight_1.columns, weight_1.scale, place_1.grad),
            *(middle.columns, middle.scale, middle.amax, weight_2.columns, weight_2.scale),
            *(place_2.grad, inner, place_1.own),
        )
        return _product(middle.rows, middle.scale, weight_2.rows, weight_2.scale, weight_2.bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:  # type: ignore[override]
        x, x_scale, x_amax, weight_1, weight_1_scale, grad_1_scale, *rest = ctx.saved_tensors
        middle, middle_scale, middle_amax, weight_2, weight_2_scale, grad_2_scale, *rest = rest
        inner, own = rest
        made_2 = cast_gradient(grad.contiguous(), grad_2_scale, own)
        grad_middle = _back(made_2.rows, made_2.scale, weight_2, weight_2_scale, grad, ctx.fast)
        of_weight_2 = _back(made_2.columns, made_2.scale, middle, middle_scale, grad, ctx.fast)
        made_1 = cast_gradient(
            grad_middle, grad_1_scale, own, activation=ctx.activation, inner=inner
        )
        grad_x = _back(made_1.rows, made_1.scale, weight_1, weight_1_scale, grad, ctx.fast)
        of_weight_1 = _back(made_1.columns, made_1.scale, x, x_scale, grad, ctx.fast)
        maxima = (x_amax, made_1.amax, middle_amax, made_2.amax)
        parameters = (of_weight_1, of_weight_2, made_1.sums, made_2.sums)
        return grad_x, *maxima, None, None, None, None, *parameters


def _product(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, bias: Tensor) -> Tensor:
    """Product a b^T of a [M, I] and b [N, I], plus a bias [N].

    Fast accumulation keeps partial sums in fewer bits: good enough for outputs.
    """
    return torch._scaled_mm(
        a, b.t(), a_scale, b_scale, bias=bias, out_dtype=bias.dtype, use_fast_accum=True
    )


def _back(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, like: Tensor, fast: bool
) -> Tensor:
    """The same without a bias, in the dtype of `like`."""
    return torch._scaled_mm(a, b.t(), a_scale, b_scale, out_dtype=like.dtype, use_fast_accum=fast)
