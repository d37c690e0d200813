"""Bias and GELU in one Triton kernel for each direction.

For the backward pass only x is kept. The gradient of the bias is summed on the way, in two stages
of fixed order; see `column_sums.py`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from ds_bert_kernels.column_sums import add_up, rows_per_program
from torch import Tensor

_BLOCK = 1024  # columns of a program


def bias_gelu(x: Tensor, bias: Tensor, approximate: str = "none") -> Tensor:
    """See `ds_bert_kernels.reference.bias_gelu`, whose twin this is.

    Computed in fp32 and rounded once; a custom operator, so that torch.compile passes through.
    """
    return _forward(x, bias, approximate == "tanh")


def launch_forward(x: Tensor, bias: Tensor, is_tanh: bool) -> Tensor:
    """Output [T, N]."""
    x = x.contiguous()
    output = torch.empty_like(x)
    if x.numel():
        grid = len(x), triton.cdiv(x.shape[1], _BLOCK)
        _gelu_forward[grid](x, bias, output, x.shape[1], **_constants(x, is_tanh))
    return output


def launch_backward(grad: Tensor, x: Tensor, bias: Tensor, is_tanh: bool) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the bias."""
    grad, x = grad.contiguous(), x.contiguous()
    dx = torch.empty_like(x)
    num_rows, num_columns = x.shape
    each = rows_per_program(num_rows)
    num_programs = triton.cdiv(num_rows, each)
    sums = x.new_empty(1, num_programs, num_columns, dtype=torch.float32)
    if x.numel():
        grid = num_programs, triton.cdiv(num_columns, _BLOCK)
        _gelu_backward[grid](
            grad, x, bias, dx, sums, num_rows, num_columns, each, **_constants(x, is_tanh)
        )
    (dbias,) = add_up(sums, bias.dtype)
    return dx, dbias


def _constants(x: Tensor, is_tanh: bool) -> dict[str, Any]:
    block = min(_BLOCK, triton.next_power_of_2(x.shape[1]))
    return {"BLOCK": block, "IS_TANH": is_tanh, "num_warps": 4}


_forward = torch.library.custom_op("ds_bert::bias_gelu", launch_forward, mutates_args=())
_backward = torch.library.custom_op("ds_bert::bias_gelu_backward", launch_backward, mutates_args=())


@_forward.register_fake
def _(x, bias, is_tanh):
    return x.new_empty(x.shape)


@_backward.register_fake
def _(grad, x, bias, is_tanh):
    return x.new_empty(x.shape), torch.empty_like(bias)


def _save(ctx, inputs, output):
    *tensors, ctx.is_tanh = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad):
    return *_backward(grad, *ctx.saved_tensors, ctx.is_tanh), None


_forward.register_autograd(_differentiate, setup_context=_save)


@triton.jit
def _gate(x, IS_TANH: tl.constexpr):
    """What GELU multiplies x by, and the derivative of that: a distribution and its density."""
    if IS_TANH:  # (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), which cannot overflow
        root: tl.constexpr = 1.5957691216057308  # 2 sqrt(2 / pi)
        gate = 1 / (1 + tl.exp(-root * x * (1 + 0.044715 * x * x)))
        density = gate * (1 - gate) * root * (1 + 3 * 0.044715 * x * x)
    else:
        # The density's exponential gives erf too: Abramowitz, Stegun 1964, 7.1.26, to 1.5e-7. With
        # CUDA's own it is 17 instructions more, and the kernel waits for them, not for memory.
        power = tl.exp2(-0.7213475204444817 * x * x)  # exp(-x^2 / 2)
        t = 1 / (1 + 0.23164189 * tl.abs(x))
        tail = (1.061405429 * t - 1.453152027) * t + 1.421413741
        tail = ((tail * t - 0.284496736) * t + 0.254829592) * t * 0.5 * power
        gate = tl.where(x < 0, tail, 1 - tail)
        density = 0.3989422804014327 * power
    return gate, density


@triton.jit
def _gelu_forward(x, bias, output, N, BLOCK: tl.constexpr, IS_TANH: tl.constexpr):
    """Columns [BLOCK] of one row."""
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < N
    places = tl.program_id(0).to(tl.int64) * N + columns
    value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    gate, _ = _gate(value, IS_TANH)
    tl.store(output + places, (value * gate).to(output.dtype.element_ty), mask=inside)


@triton.jit
def _gelu_backward(
    grad, x, bias, dx, bias_sums, T, N, each, BLOCK: tl.constexpr, IS_TANH: tl.constexpr
):
    """Columns [BLOCK] of `each` rows, and the gradient's sum over them."""
    program = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < N
    shift = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    dbias = tl.zeros((BLOCK,), tl.float32)
    for row in range(program * each, tl.minimum((program + 1) * each, T)):
        places = tl.cast(row, tl.int64) * N + columns
        value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32) + shift
        gate, density = _gate(value, IS_TANH)
        dvalue = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
        dvalue *= gate + value * density
        tl.store(dx + places, dvalue.to(dx.dtype.element_ty), mask=inside)
        dbias += dvalue
    tl.store(bias_sums + program.to(tl.int64) * N + columns, dbias, mask=inside)
