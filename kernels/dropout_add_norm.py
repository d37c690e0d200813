"""Bias, dropout, addition of the residual and LayerNorm in one Triton kernel for each direction.

Of x and the residual it keeps one tensor for the backward pass: their sum, in the dtype of x. The
mask is computed again from its counters. In the backward pass each program walks over some rows
and adds up the gradients of the three vectors on its way; see `column_sums.py`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from ds_bert_kernels.column_sums import add_up, rows_per_program
from ds_bert_kernels.philox import keep_row
from ds_bert_kernels.reference import philox
from torch import Tensor

# Columns of a row that one warp holds. Forward as many as registers allow, since sums over the
# columns then need no shared memory; backward less, beside sums over the rows.
_FORWARD, _BACKWARD = 1024, 512
MAX_COLUMNS = 8192


def dropout_add_layer_norm(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    dropout: float,
    seed: Tensor,
) -> Tensor:
    """See `ds_bert_kernels.reference.dropout_add_norm`, whose twin this is; H is at most 8,192.

    Everything is computed in fp32; the sum before the norm and the result are rounded to the dtype
    of x. An element that is dropped counts for nothing, were it infinite. Never waits for the
    device; a custom operator, so that torch.compile passes through.
    """
    return _forward(x, bias, residual, weight, norm_bias, eps, dropout, seed)[0]


def dropout_add_layer_norm_twice(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    dropout: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:
    """`dropout_add_layer_norm` under two names, one for each of its two uses.

    The gradients of both uses are added inside the kernel, where autograd would write their sum to
    memory first.
    """
    return _Twice.apply(x, bias, residual, weight, norm_bias, eps, dropout, seed)


def launch_forward(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    dropout: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output [T, H], the sum before the norm [T, H], and its mean and 1 / deviation, fp32 [T]."""
    x, residual = x.contiguous(), residual.contiguous()
    output, total = torch.empty_like(x), torch.empty_like(x)
    mean, rstd = (x.new_empty(len(x), dtype=torch.float32) for _ in range(2))
    if len(x):
        _norm_forward[(len(x),)](
            x, bias, residual, weight, norm_bias, seed, output, total, mean, rstd,
            x.shape[1], eps, philox.threshold(dropout), philox.scale(dropout),
            **_constants(x, dropout, _FORWARD),
        )  # fmt: skip
    return output, total, mean, rstd


def launch_backward(
    grad: Tensor,
    other: Tensor | None,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    dropout: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, bias, residual, weight and norm_bias; that of the output is grad + other.

    That of the bias is taken also where there is none, for 1.5 % of the bytes.
    """
    grad, other = grad.contiguous(), None if other is None else other.contiguous()
    dx, dresidual = torch.empty_like(total), torch.empty_like(total)
    num_rows, num_columns = total.shape
    each = rows_per_program(num_rows)
    num_programs = triton.cdiv(num_rows, each)
    sums = weight.new_empty(3, num_programs, num_columns, dtype=torch.float32)
    if num_programs:
        _norm_backward[(num_programs,)](
            grad, other, total, mean, rstd, weight, seed, dx, dresidual, *sums,
            num_rows, num_columns, each, philox.threshold(dropout), philox.scale(dropout),
            **_constants(total, dropout, _BACKWARD),
        )  # fmt: skip
    dbias, dweight, dnorm_bias = add_up(sums, weight.dtype)
    return dx, dbias, dresidual, dweight, dnorm_bias


def _constants(x: Tensor, dropout: float, columns_per_warp: int) -> dict[str, Any]:
    block = max(4, triton.next_power_of_2(x.shape[1]))
    assert block <= MAX_COLUMNS, x.shape
    num_warps = max(1, block // columns_per_warp)
    return {"BLOCK": block, "HAS_DROPOUT": dropout > 0, "num_warps": num_warps}


_forward = torch.library.custom_op(
    "ds_bert::dropout_add_layer_norm", launch_forward, mutates_args=()
)
_backward = torch.library.custom_op(
    "ds_bert::dropout_add_layer_norm_backward", launch_backward, mutates_args=()
)


@_forward.register_fake
def _(x, bias, residual, weight, norm_bias, eps, dropout, seed):
    # len(x) would make a constant of the number of rows.
    mean, rstd = (x.new_empty(x.shape[0], dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), x.new_empty(x.shape), mean, rstd


@_backward.register_fake
def _(grad, other, total, mean, rstd, weight, dropout, seed):
    dx, dresidual = total.new_empty(total.shape), total.new_empty(total.shape)
    return dx, torch.empty_like(weight), dresidual, *(torch.empty_like(weight) for _ in range(2))


def _save(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:], inputs[3], inputs[7])
    ctx.dropout, ctx.has_bias = inputs[6], inputs[1] is not None


def _differentiate(ctx, grad, *_):
    return _gradients(ctx, grad, None)


def _gradients(ctx, grad, other):
    *saved, seed = ctx.saved_tensors
    dx, dbias, *others = _backward(grad, other, *saved, ctx.dropout, seed)
    return dx, dbias if ctx.has_bias else None, *others, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bias, residual, weight, norm_bias, eps, dropout, seed):
        output, *saved = _forward(x, bias, residual, weight, norm_bias, eps, dropout, seed)
        ctx.save_for_backward(*saved, weight, seed)
        ctx.dropout, ctx.has_bias = dropout, bias is not None
        return output, output.view_as(output)

    @staticmethod
    def backward(ctx, grad, other):
        return _gradients(ctx, grad, other)


# The seed is a piece of a longer tensor, so it may lie anywhere.
@triton.jit(do_not_specialize_on_alignment=["seed"])
def _norm_forward(
    x, bias, residual, weight, norm_bias, seed, output, total, mean, rstd,
    H, eps, threshold, scale, BLOCK: tl.constexpr, HAS_DROPOUT: tl.constexpr,
):  # fmt: skip
    """One row [H]."""
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < H
    places = row.to(tl.int64) * H + columns
    value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_DROPOUT:
        kept = keep_row(tl.load(seed), row, threshold, BLOCK)
        value = tl.where(kept, value * scale, 0.0)
    value += tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
    # The backward pass sees the rounded sum; so its statistics are those of the rounded sum.
    rounded = value.to(total.dtype.element_ty)
    tl.store(total + places, rounded, mask=inside)
    value = rounded.to(tl.float32)
    center = tl.sum(value, 0) / H
    value = tl.where(inside, value - center, 0.0)
    inverse = tl.rsqrt(tl.sum(value * value, 0) / H + eps)
    tl.store(mean + row, center)
    tl.store(rstd + row, inverse)
    gamma = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    beta = tl.load(norm_bias + columns, mask=inside, other=0.0).to(tl.float32)
    result = value * inverse * gamma + beta
    tl.store(output + places, result.to(output.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize_on_alignment=["seed"])
def _norm_backward(
    grad, other, total, mean, rstd, weight, seed, dx, dresidual,
    bias_sums, weight_sums, norm_bias_sums, T, H, each, threshold, scale,
    BLOCK: tl.constexpr, HAS_DROPOUT: tl.constexpr,
):  # fmt: skip
    """Rows [each, H], and the sums over them that gradients of vectors are made of."""
    program = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < H
    gamma = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    dbias = tl.zeros((BLOCK,), tl.float32)
    dweight = tl.zeros((BLOCK,), tl.float32)
    dnorm_bias = tl.zeros((BLOCK,), tl.float32)
    for row in range(program * each, tl.minimum((program + 1) * each, T)):
        places = tl.cast(row, tl.int64) * H + columns
        dy = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
        if other is not None:
            dy += tl.load(other + places, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(total + places, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(rstd + row)
        normed = tl.where(inside, (value - tl.load(mean + row)) * inverse, 0.0)
        dweight += dy * normed
        dnorm_bias += dy
        dnormed = dy * gamma
        # The gradient's parts along the vector of ones and along the normed row are taken out.
        along_ones = tl.sum(dnormed, 0) / H
        along_row = tl.sum(dnormed * normed, 0) / H
        dtotal = (dnormed - along_ones - normed * along_row) * inverse
        tl.store(dresidual + places, dtotal.to(dresidual.dtype.element_ty), mask=inside)
        if HAS_DROPOUT:
            kept = keep_row(tl.load(seed), row, threshold, BLOCK)
            dtotal = tl.where(kept, dtotal * scale, 0.0)
        tl.store(dx + places, dtotal.to(dx.dtype.element_ty), mask=inside)
        dbias += dtotal
    places = program.to(tl.int64) * H + columns
    tl.store(bias_sums + places, dbias, mask=inside)
    tl.store(weight_sums + places, dweight, mask=inside)
    tl.store(norm_bias_sums + places, dnorm_bias, mask=inside)
