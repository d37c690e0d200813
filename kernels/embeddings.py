"""BERT's embeddings, LayerNorm and dropout in one Triton kernel for each direction.

Only mean and deviation are kept: the backward pass reads the tables again. Gradients of LayerNorm
and of the token types are summed on the way, see `column_sums.py`; those of words and positions by
torch's operator, which sorts the ids and adds up in that order. torch.compile would make atomics of
that operator; inside of a custom operator it does not see it.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from ds_bert_kernels.column_sums import add_up, rows_per_program
from ds_bert_kernels.philox import keep_row
from ds_bert_kernels.reference import philox
from torch import Tensor

_FORWARD, _BACKWARD = 1024, 512  # columns of a row that one warp holds


def embed(
    input_ids: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    words: Tensor,
    types: Tensor,
    positions: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dropout: float,
    seed: Tensor,
    padding_idx: int = -1,
) -> Tensor:
    """See `ds_bert_kernels.reference.embeddings`, whose twin this is; tables are contiguous.

    Computed in fp32 and rounded once. The same input gives the same bits, gradients too.
    """
    ids = (input_ids, token_type_ids, position_ids)
    tensors = (words, types, positions, weight, bias)
    return _forward(*ids, *tensors, eps, dropout, seed, padding_idx)[0]


def launch_forward(
    input_ids: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    words: Tensor,
    types: Tensor,
    positions: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dropout: float,
    seed: Tensor,
    padding_idx: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output [T, H], mean and 1 / deviation of the rows before the norm, fp32 [T]."""
    assert len(types) <= 2, types.shape
    ids = [part.contiguous() for part in (input_ids, token_type_ids, position_ids)]
    output = words.new_empty(len(input_ids), words.shape[1])
    mean, rstd = (words.new_empty(len(output), dtype=torch.float32) for _ in range(2))
    if len(output):
        _embed_forward[(len(output),)](
            *ids, words, types, positions, weight, bias, seed, output, mean, rstd,
            words.shape[1], eps, philox.threshold(dropout), philox.scale(dropout),
            **_constants(words, dropout, _FORWARD),
        )  # fmt: skip
    return output, mean, rstd


def launch_backward(
    grad: Tensor,
    mean: Tensor,
    rstd: Tensor,
    input_ids: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    words: Tensor,
    types: Tensor,
    positions: Tensor,
    weight: Tensor,
    dropout: float,
    seed: Tensor,
    padding_idx: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of words, types, positions, weight and bias."""
    grad = grad.contiguous()
    ids = [part.contiguous() for part in (input_ids, token_type_ids, position_ids)]
    num_rows, num_columns = grad.shape
    each = rows_per_program(num_rows)
    num_programs = triton.cdiv(num_rows, each)
    drows = words.new_empty(num_rows, num_columns)
    sums = words.new_empty(4, num_programs, num_columns, dtype=torch.float32)
    if num_programs:
        _embed_backward[(num_programs,)](
            grad, mean, rstd, *ids, words, types, positions, weight, seed, drows, *sums,
            num_rows, num_columns, each, philox.threshold(dropout), philox.scale(dropout),
            **_constants(words, dropout, _BACKWARD),
        )  # fmt: skip
    *dtypes, dweight, dbias = add_up(sums, weight.dtype)
    dwords = _add_rows(drows, ids[0], words, padding_idx)
    dpositions = _add_rows(drows, ids[2], positions, -1)
    return dwords, torch.stack(dtypes[: len(types)]), dpositions, dweight, dbias


def _add_rows(rows: Tensor, ids: Tensor, table: Tensor, padding_idx: int) -> Tensor:
    return torch.ops.aten.embedding_dense_backward(rows, ids, len(table), padding_idx, False)


def _constants(words: Tensor, dropout: float, columns_per_warp: int) -> dict[str, Any]:
    block = max(4, triton.next_power_of_2(words.shape[1]))
    num_warps = max(1, block // columns_per_warp)
    return {"BLOCK": block, "HAS_DROPOUT": dropout > 0, "num_warps": num_warps}


_forward = torch.library.custom_op("ds_bert::embed", launch_forward, mutates_args=())
_backward = torch.library.custom_op("ds_bert::embed_backward", launch_backward, mutates_args=())


@_forward.register_fake
def _(input_ids, token_type_ids, position_ids, words, *_):
    rows = input_ids.shape[0]  # len(input_ids) would make a constant of it
    mean, rstd = (words.new_empty(rows, dtype=torch.float32) for _ in range(2))
    return words.new_empty(rows, words.shape[1]), mean, rstd


@_backward.register_fake
def _(
    grad, mean, rstd, input_ids, token_type_ids, position_ids, words, types, positions, weight, *_
):
    tables = (torch.empty_like(table) for table in (words, types, positions))
    return *tables, torch.empty_like(weight), torch.empty_like(weight)


def _save(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    *tensors, _, _, ctx.dropout, seed, ctx.padding_idx = inputs
    ctx.save_for_backward(*output[1:], *tensors, seed)


def _differentiate(ctx, grad, *_):
    *saved, seed = ctx.saved_tensors
    gradients = _backward(grad, *saved, ctx.dropout, seed, ctx.padding_idx)
    return None, None, None, *gradients, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


@triton.jit
def _read(ids, row, table, columns, inside, H):
    """A row of a table [*, H]."""
    places = tl.load(ids + row).to(tl.int64) * H + columns
    return tl.load(table + places, mask=inside, other=0.0).to(tl.float32)


# The seed is a piece of a longer tensor, so it may lie anywhere.
@triton.jit(do_not_specialize_on_alignment=["seed"])
def _embed_forward(
    input_ids, token_type_ids, position_ids, words, types, positions, weight, bias, seed,
    output, mean, rstd, H, eps, threshold, scale, BLOCK: tl.constexpr, HAS_DROPOUT: tl.constexpr,
):  # fmt: skip
    """One row [H]."""
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < H
    value = _read(input_ids, row, words, columns, inside, H)
    value += _read(token_type_ids, row, types, columns, inside, H)
    value += _read(position_ids, row, positions, columns, inside, H)
    center = tl.sum(value, 0) / H
    value = tl.where(inside, value - center, 0.0)
    inverse = tl.rsqrt(tl.sum(value * value, 0) / H + eps)
    tl.store(mean + row, center)
    tl.store(rstd + row, inverse)
    gamma = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    beta = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    result = value * inverse * gamma + beta
    if HAS_DROPOUT:
        kept = keep_row(tl.load(seed), row, threshold, BLOCK)
        result = tl.where(kept, result * scale, 0.0)
    places = row.to(tl.int64) * H + columns
    tl.store(output + places, result.to(output.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize_on_alignment=["seed"])
def _embed_backward(
    grad, mean, rstd, input_ids, token_type_ids, position_ids, words, types, positions, weight,
    seed, drows, first_sums, second_sums, weight_sums, bias_sums,
    T, H, each, threshold, scale, BLOCK: tl.constexpr, HAS_DROPOUT: tl.constexpr,
):  # fmt: skip
    """Rows [each, H], and the sums over them that gradients of vectors and types are made of."""
    program = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < H
    gamma = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    dfirst = tl.zeros((BLOCK,), tl.float32)
    dsecond = tl.zeros((BLOCK,), tl.float32)
    dweight = tl.zeros((BLOCK,), tl.float32)
    dbias = tl.zeros((BLOCK,), tl.float32)
    for row in range(program * each, tl.minimum((program + 1) * each, T)):
        places = tl.cast(row, tl.int64) * H + columns
        dy = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
        if HAS_DROPOUT:
            kept = keep_row(tl.load(seed), row, threshold, BLOCK)
            dy = tl.where(kept, dy * scale, 0.0)
        value = _read(input_ids, row, words, columns, inside, H)
        value += _read(token_type_ids, row, types, columns, inside, H)
        value += _read(position_ids, row, positions, columns, inside, H)
        inverse = tl.load(rstd + row)
        normed = tl.where(inside, (value - tl.load(mean + row)) * inverse, 0.0)
        dweight += dy * normed
        dbias += dy
        dnormed = dy * gamma
        # As in `dropout_add_norm.py`.
        along_ones = tl.sum(dnormed, 0) / H
        along_row = tl.sum(dnormed * normed, 0) / H
        dvalue = (dnormed - along_ones - normed * along_row) * inverse
        tl.store(drows + places, dvalue.to(drows.dtype.element_ty), mask=inside)
        is_first = tl.load(token_type_ids + row) == 0
        dfirst += tl.where(is_first, dvalue, 0.0)
        dsecond += tl.where(is_first, 0.0, dvalue)
    places = program.to(tl.int64) * H + columns
    tl.store(first_sums + places, dfirst, mask=inside)
    tl.store(second_sums + places, dsecond, mask=inside)
    tl.store(weight_sums + places, dweight, mask=inside)
    tl.store(bias_sums + places, dbias, mask=inside)
