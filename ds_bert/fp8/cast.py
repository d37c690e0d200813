"""The cast to fp8 as an operator that torch.compile passes through as it is."""

import torch
from ds_bert_kernels.dispatch import implementation
from ds_bert_kernels.reference.fp8_cast import ALIGNMENT, Cast
from torch import Tensor

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def cast(
    x: Tensor,
    scale: Tensor,
    own_scale: Tensor,
    *,
    activation: str | None = None,
    transpose: bool = True,
) -> Cast:
    """An activation or weight [T, K] in E4M3; see `ds_bert_kernels.fp8_cast.cast_to_fp8`.

    Args:
        x: [T, K].
        scale: fp32 [].
        own_scale: bool [] on the CPU, so that compiled code serves both.
        activation: the `approximate` of `F.gelu` that x goes through first.
        transpose: whether `columns` are wanted.
    """
    return Cast(*_cast(x, None, scale, own_scale, False, activation, transpose))


def cast_gradient(
    grad: Tensor,
    scale: Tensor,
    own_scale: Tensor,
    *,
    activation: str | None = None,
    inner: Tensor | None = None,
) -> Cast:
    """A gradient [T, N] in E5M2, with its transpose and its sums, which are the bias's gradient.

    Args:
        grad: [T, N].
        scale: fp32 [].
        own_scale: bool [] on the CPU.
        activation: as in `cast`: the gradient goes through the GELU's backward pass first.
        inner: [T, N], what that GELU was taken of.
    """
    return Cast(*_cast(grad, inner, scale, own_scale, True, activation, True))


@torch.library.custom_op("ds_bert::cast_to_fp8", mutates_args=())
def _cast(
    x: Tensor,
    inner: Tensor | None,
    scale: Tensor,
    own_scale: Tensor,
    is_gradient: bool,
    activation: str | None,
    transpose: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    made = implementation("fp8_cast", x).cast_to_fp8(
        x,
        scale,
        E5M2 if is_gradient else E4M3,
        own_scale=bool(own_scale),
        activation=activation,
        inner=inner,
        transpose=transpose,
        sums=is_gradient,
    )
    return tuple(made)


@_cast.register_fake
def _(x, inner, scale, own_scale, is_gradient, activation, transpose):
    num_rows, num_columns = x.shape
    dtype = E5M2 if is_gradient else E4M3
    # In this form a tracer can prove the multiple of 16.
    padded = (num_rows + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    columns = (num_columns, padded) if transpose else (0,)
    return (
        x.new_empty((num_rows, num_columns), dtype=dtype),
        x.new_empty(columns, dtype=dtype),
        x.new_empty((), dtype=torch.float32),
        x.new_empty((), dtype=torch.float32),
        x.new_empty(num_columns if is_gradient else 0),
    )
