"""Tiles of queries and keys: what the attention kernels for short and long sequences share.

A tile of scores is [queries, keys] in every kernel, forward and backward. So a row of it, which the
softmax and its gradient sum over, and the eight weights that share a call of the random numbers lie
within a thread or its three neighbours.
"""

import triton
import triton.language as tl
from ds_bert_kernels.philox import random_bits


@triton.jit
def bounds(cu_seqlens, sequence):
    """First token and number of tokens of a sequence."""
    start = tl.load(cu_seqlens + sequence)
    return start, tl.load(cu_seqlens + sequence + 1) - start


@triton.jit
def load_tile(pointer, rows, length, stride, SIZE: tl.constexpr):
    """Rows [R, SIZE] of one sequence and head, zero from `length` on: what follows is another's.

    Args:
        pointer: to the head's first element in the sequence's first token.
        rows: int32 [R], tokens counted from there.
        length: of the sequence.
        stride: elements from one token to the next.
        SIZE: head size.
    """
    places = rows[:, None] * stride + tl.arange(0, SIZE)[None, :]
    return tl.load(pointer + places, mask=rows[:, None] < length, other=0.0)


@triton.jit
def store_tile(pointer, rows, length, stride, tile, SIZE: tl.constexpr):
    """The counterpart of `load_tile`."""
    places = rows[:, None] * stride + tl.arange(0, SIZE)[None, :]
    tl.store(pointer + places, tile.to(pointer.dtype.element_ty), mask=rows[:, None] < length)


@triton.jit
def keep_tile(seed, queries, first_key, head, threshold, KEYS: tl.constexpr):
    """Which weights [queries, KEYS] dropout keeps; see `reference.attention.keep_mask`.

    The two halves of each of the four numbers of a call are for eight keys that are 8 apart. Tensor
    cores leave those of a row in one thread, so nothing moves between threads.

    Args:
        seed: int64 scalar.
        queries: int32 [Q], tokens counted from the batch's first.
        first_key: token of the sequence, a multiple of 64.
        head: int32 scalar.
        threshold: int32 scalar, a multiple of 2**16.
        KEYS: a multiple of 64.
    """
    calls = first_key // 8 + tl.arange(0, KEYS // 8)
    first, second, third, fourth = random_bits(seed, queries[:, None], calls[None, :], head)
    # join makes the last axis: [Q, KEYS / 8, 2, 2] with [i, j] being number 2 i + j.
    bits = tl.join(tl.join(first, third), tl.join(second, fourth))
    bits = tl.join(bits, bits << 16)  # each upper half, then each lower one
    bits = bits.reshape(queries.shape[0], KEYS // 64, 8, 2, 2, 2).permute(0, 1, 3, 4, 5, 2)
    return bits.reshape(queries.shape[0], KEYS) >= threshold


@triton.jit
def positive(x):
    """Maximum of x and zero, not a number where x is none."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
