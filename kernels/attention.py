"""Attention within each sequence of an unpadded batch, with dropout, as Triton kernels.

Query, key and value are read from one tensor as the projections' product leaves them, and their
gradients written to one as its backward pass takes them. Scores never reach memory. What dropout
drops is computed again in the backward pass. Sums have a fixed order: the same input gives the same
bits, and a sequence's output depends on nothing in the batch but its own tokens and, with dropout,
its place.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from ds_bert_kernels.reference.attention import drop_level
from ds_bert_kernels.tiles import long, short
from torch import Tensor

HEAD_SIZES = (64,)
SCALES = {size: size**-0.5 * 1.4426950408889634 for size in HEAD_SIZES}  # log2 e: for powers of 2
_LENGTHS_AT_ONCE = 512


class Tiling(NamedTuple):
    """Tiles and warps of the kernels on a kind of GPU; see docs/performance.md for the reasons.

    Attributes:
        forward: of the forward pass.
        queries: of the gradient of queries.
        keys: of that of keys and values.
        short: whether sequences up to `SHORT` tokens have a backward pass of their own.
    """

    forward: dict[str, int]
    queries: dict[str, int]
    keys: dict[str, int]
    short: bool


# None spills registers. On a Hopper two programs or more share a multiprocessor, so that one
# computes while another loads: 128 registers a thread for 8 warps, 168 for three times 4 warps.
HOPPER = Tiling(
    {"QUERIES": 128, "KEYS": 64, "num_warps": 8, "num_stages": 2, "maxnreg": 128},
    {"QUERIES": 64, "KEYS": 64, "num_warps": 4, "num_stages": 2, "maxnreg": 168},
    {"QUERIES": 64, "KEYS": 64, "num_warps": 4, "num_stages": 2, "SIGNS": True},
    short=True,
)
# Elsewhere factors of products are in registers, too.
AMPERE = Tiling(
    {"QUERIES": 128, "KEYS": 64, "num_warps": 8, "num_stages": 2},
    {"QUERIES": 128, "KEYS": 64, "num_warps": 8, "num_stages": 2},
    {"QUERIES": 64, "KEYS": 64, "num_warps": 4, "num_stages": 1, "SIGNS": False},
    short=False,
)
SHORT = {"TOKENS": 128, "num_warps": 8}


def varlen_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_length: int, dropout: float, seed: Tensor | None
) -> Tensor:
    """dropout(softmax(query key^T / sqrt(64))) value of each sequence and head by itself.

    Args:
        qkv: [T, 3, heads, 64], query, key and value of the tokens of B sequences in a row; bf16 or
            fp16, fp32 in Triton's interpreter.
        cu_seqlens: int32 [B + 1], the first token of each sequence, and T.
        max_length: at least the tokens of the longest sequence.
        dropout: probability of dropping a weight, in [0, 1), rounded to 2**-16.
        seed: int64, one element, on qkv's device; the same one drops the same weights. None where
            dropout is 0.

    Returns:
        [T, heads x 64], dtype of qkv. Scores, softmax and sums are fp32.

    Raises:
        ValueError: another head size; fp32 on a GPU; dropout without a seed.

    Source: Dao 2023, "FlashAttention-2"; `reference.attention.varlen_attention` is the twin.
    """
    if qkv.shape[-1] not in HEAD_SIZES:
        raise ValueError(f"head size {qkv.shape[-1]}, expected one of {HEAD_SIZES}")
    if qkv.is_cuda and qkv.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"{qkv.dtype}, expected bfloat16 or float16")
    if dropout and seed is None:
        raise ValueError(f"dropout {dropout} needs a seed")
    return _attend(qkv, cu_seqlens, max_length, dropout, seed)[0]


@torch.library.custom_op("ds_bert_kernels::varlen_attention", mutates_args=())
def _attend(
    qkv: Tensor, cu_seqlens: Tensor, max_length: int, dropout: float, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Output [T, heads x 64], and log2 of the sums of exponentials [heads, T]."""
    qkv = qkv.contiguous()
    output, log_sums = _empty_results(qkv)
    if len(qkv) == 0:
        return output, log_sums
    constants = _constants(qkv, dropout)
    if max_length <= SHORT["TOKENS"]:
        short.attention_forward[(_num_programs(qkv, cu_seqlens),)](
            qkv, cu_seqlens, seed, output, log_sums, **constants, **SHORT
        )
        return output, log_sums
    tiles = _tiling(qkv.device).forward
    work = _list_work(qkv, cu_seqlens, tiles["QUERIES"])
    long.attention_forward[(len(work) * qkv.shape[2],)](
        qkv, cu_seqlens, work, seed, output, log_sums, **constants, **tiles
    )
    return output, log_sums


@_attend.register_fake
def _(qkv, cu_seqlens, max_length, dropout, seed):
    return _empty_results(qkv)


@torch.library.custom_op("ds_bert_kernels::varlen_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    dropout: float,
    seed: Tensor | None,
    output: Tensor,
    log_sums: Tensor,
) -> Tensor:
    """Gradient [T, 3, heads, 64]."""
    qkv, grad = qkv.contiguous(), grad.contiguous()
    qkv_grad = torch.empty_like(qkv)
    if len(qkv) == 0:
        return qkv_grad
    constants, tiling = _constants(qkv, dropout), _tiling(qkv.device)
    if max_length <= SHORT["TOKENS"] and tiling.short:
        short.attention_backward[(_num_programs(qkv, cu_seqlens),)](
            grad, qkv, cu_seqlens, seed, log_sums, qkv_grad, **constants, **SHORT
        )
        return qkv_grad
    row_sums = torch.empty_like(log_sums)
    work = _list_work(qkv, cu_seqlens, tiling.queries["QUERIES"])
    long.attention_backward_queries[(len(work) * qkv.shape[2],)](
        grad, qkv, cu_seqlens, work, seed, output, log_sums, row_sums, qkv_grad,
        **constants, **tiling.queries,
    )  # fmt: skip
    work = _list_work(qkv, cu_seqlens, tiling.keys["KEYS"])
    long.attention_backward_keys[(len(work) * qkv.shape[2],)](
        grad, qkv, cu_seqlens, work, seed, log_sums, row_sums, qkv_grad,
        **constants, **tiling.keys,
    )  # fmt: skip
    return qkv_grad


@_attend_backward.register_fake
def _(grad, qkv, cu_seqlens, max_length, dropout, seed, output, log_sums):
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    qkv, cu_seqlens, ctx.max_length, ctx.dropout, seed = inputs
    ctx.save_for_backward(qkv, cu_seqlens, seed, *output)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple:
    qkv, cu_seqlens, seed, output, log_sums = ctx.saved_tensors
    arguments = cu_seqlens, ctx.max_length, ctx.dropout, seed, output, log_sums
    return _attend_backward(grad, qkv, *arguments), None, None, None, None


_attend.register_autograd(_differentiate, setup_context=_save)


def _empty_results(qkv: Tensor) -> tuple[Tensor, Tensor]:
    num_tokens, _, num_heads, head_size = qkv.shape
    output = qkv.new_empty(num_tokens, num_heads * head_size)
    return output, qkv.new_empty(num_heads, num_tokens, dtype=torch.float32)


def _constants(qkv: Tensor, dropout: float) -> dict[str, Any]:
    """Arguments that all kernels share."""
    num_tokens, _, num_heads, head_size = qkv.shape
    level = drop_level(dropout)
    return {
        "num_heads": num_heads,
        "num_tokens": num_tokens,
        "threshold": (level << 16) - 2**31,
        "inverse_kept": 1 / (1 - level / 2**16),
        "SCALE": SCALES[head_size],
        "SIZE": head_size,
        "DROPS": level > 0,
    }


def _num_programs(qkv: Tensor, cu_seqlens: Tensor) -> int:
    return qkv.shape[2] * (len(cu_seqlens) - 1)


def _list_work(qkv: Tensor, cu_seqlens: Tensor, rows: int) -> Tensor:
    """Tiles of `rows` tokens, see `long.list_attention_work`; made on the device without waiting.

    So their number is not known here: each sequence's last tile may have a single token.
    """
    num_sequences = len(cu_seqlens) - 1
    num_places = len(qkv) // rows + num_sequences
    work = cu_seqlens.new_empty(num_places, 2)
    long.list_attention_work[(num_sequences + 1,)](
        cu_seqlens, work, num_sequences, num_places, ROWS=rows, BLOCK=_LENGTHS_AT_ONCE
    )
    return work


@lru_cache
def _tiling(device: torch.device) -> Tiling:
    """That of a Hopper in the interpreter, too."""
    is_other = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] != 9
    return AMPERE if is_other else HOPPER
