"""Attention in sequences of any length, tile by tile, as FlashAttention does it.

One program per tile and head: of queries forward and for their gradient, of keys for that of keys
and values. So nothing is added up across programs and no atomics are needed, for two more matrix
products than the five of a backward pass that adds up with atomics.

Source: Dao 2023, "FlashAttention-2".
"""

import triton
import triton.language as tl
from ds_bert_kernels.tiles.pieces import bounds, keep_tile, load_tile, positive, store_tile


@triton.jit(do_not_specialize=["num_sequences", "num_places"])
def list_attention_work(
    cu_seqlens, work, num_sequences, num_places, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Write the first rows of all tiles, and whose they are, the longest sequences first.

    Programs that work on long sequences begin first, so the last ones to end are short. One program
    per sequence, which finds its place by counting, and one that marks what is left over.

    Args:
        cu_seqlens: int32 [B + 1].
        work: int32 [num_places, 2], sequence and first row of a tile; -1 where there is none.
        num_sequences: B.
        num_places: at least the number of tiles.
        ROWS: of a tile.
        BLOCK: lengths that are read at once.
    """
    sequence = tl.program_id(0)
    length = -1
    if sequence < num_sequences:
        length = bounds(cu_seqlens, sequence)[1]
    before = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, num_sequences, BLOCK):
        others = first + tl.arange(0, BLOCK)
        inside = others < num_sequences
        start = tl.load(cu_seqlens + others, mask=inside, other=0)
        other = tl.load(cu_seqlens + others + 1, mask=inside, other=0) - start
        is_before = (other > length) | ((other == length) & (others < sequence))
        before += tl.where(is_before & inside, (other + ROWS - 1) // ROWS, 0)
    work += 2 * tl.sum(before, 0)
    for row in range(0, length, ROWS):
        tl.store(work, sequence)
        tl.store(work + 1, row)
        work += 2
    if length < 0:
        for _ in range(tl.sum(before, 0), num_places):
            tl.store(work, -1)
            work += 2


@triton.jit
def work_of(program, cu_seqlens, work, num_heads):
    """Head, first row of the tile, first token and length of its sequence; 0 if there is none."""
    work += 2 * (program // num_heads)
    sequence = tl.load(work)
    first, start, length = 0, 0, 0
    if sequence >= 0:
        first = tl.load(work + 1)
        start, length = bounds(cu_seqlens, sequence)
    return program % num_heads, first, start, length


@triton.jit(do_not_specialize=["num_heads", "num_tokens"])
def attention_forward(
    qkv, cu_seqlens, work, seed, output, log_sums,
    num_heads, num_tokens, threshold, inverse_kept,
    SCALE: tl.constexpr, SIZE: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Output [T, heads x SIZE] of a tile of queries, and log2 of its sums of exponentials."""
    head, first_query, start, length = work_of(tl.program_id(0), cu_seqlens, work, num_heads)
    if length == 0:
        return
    width = num_heads * SIZE
    queries = first_query + tl.arange(0, QUERIES)
    qkv += start.to(tl.int64) * 3 * width + head * SIZE
    query = load_tile(qkv, queries, length, 3 * width, SIZE)
    highest = tl.full((QUERIES,), -float("inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    result = tl.zeros((QUERIES, SIZE), tl.float32)
    for first in range(0, length, KEYS):
        keys = first + tl.arange(0, KEYS)
        key = load_tile(qkv + width, keys, length, 3 * width, SIZE)
        value = load_tile(qkv + 2 * width, keys, length, 3 * width, SIZE)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee")
        scores = tl.where(keys[None, :] < length, scores, -float("inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1) * SCALE)
        rescale = tl.exp2(highest - new_highest)
        weights = tl.exp2(scores * SCALE - new_highest[:, None])
        highest = new_highest
        total = total * rescale + tl.sum(weights, 1)
        if DROPS:
            kept = keep_tile(tl.load(seed), start + queries, first, head, threshold, KEYS)
            weights = tl.where(kept, weights, 0.0)
        weights = weights.to(value.dtype)
        result = tl.dot(weights, value, result * rescale[:, None], input_precision="ieee")
    result *= (inverse_kept / total)[:, None]
    output += start.to(tl.int64) * width + head * SIZE
    store_tile(output, queries, length, width, result, SIZE)
    log_sums += head.to(tl.int64) * num_tokens + start
    tl.store(log_sums + queries, highest + tl.log2(total), mask=queries < length)


@triton.jit
def weights_again(
    query, key, log_sum, first_key, length, SCALE: tl.constexpr, KEYS: tl.constexpr
):  # fmt: skip
    """Weights [queries, KEYS] before dropout, from the logarithms of the forward pass's sums."""
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * SCALE
    inside = (first_key + tl.arange(0, KEYS)) < length
    return tl.where(inside[None, :], tl.exp2(scores - log_sum[:, None]), 0.0)


@triton.jit(do_not_specialize=["num_heads", "num_tokens"])
def attention_backward_queries(
    grad, qkv, cu_seqlens, work, seed, output, log_sums, row_sums, qkv_grad,
    num_heads, num_tokens, threshold, inverse_kept,
    SCALE: tl.constexpr, SIZE: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile of queries; and what `attention_backward_keys` needs: row_sums [heads, T].

    They are the sums over keys of weight x its gradient, which are those of output x its gradient,
    without the scale of what dropout keeps; it comes last.
    """
    head, first_query, start, length = work_of(tl.program_id(0), cu_seqlens, work, num_heads)
    if length == 0:
        return
    width = num_heads * SIZE
    queries = first_query + tl.arange(0, QUERIES)
    place = start.to(tl.int64) * width + head * SIZE
    grad_tile = load_tile(grad + place, queries, length, width, SIZE)
    output_tile = load_tile(output + place, queries, length, width, SIZE)
    row_sum = tl.sum(output_tile.to(tl.float32) * grad_tile.to(tl.float32), 1) / inverse_kept
    row_place = head.to(tl.int64) * num_tokens + start
    tl.store(row_sums + row_place + queries, row_sum, mask=queries < length)
    log_sum = tl.load(log_sums + row_place + queries, mask=queries < length, other=0.0)

    qkv += start.to(tl.int64) * 3 * width + head * SIZE
    query = load_tile(qkv, queries, length, 3 * width, SIZE)
    query_grad = tl.zeros((QUERIES, SIZE), tl.float32)
    for first in range(0, length, KEYS):
        keys = first + tl.arange(0, KEYS)
        key = load_tile(qkv + width, keys, length, 3 * width, SIZE)
        value = load_tile(qkv + 2 * width, keys, length, 3 * width, SIZE)
        weights = weights_again(query, key, log_sum, first, length, SCALE, KEYS)
        dropped = weights
        if DROPS:
            kept = keep_tile(tl.load(seed), start + queries, first, head, threshold, KEYS)
            dropped = tl.where(kept, weights, 0.0)
        weights_grad = dropped * tl.dot(grad_tile, tl.trans(value), input_precision="ieee")
        scores_grad = (weights_grad - weights * row_sum[:, None]).to(key.dtype)
        query_grad = tl.dot(scores_grad, key, query_grad, input_precision="ieee")
    query_grad *= SCALE * 0.6931471805599453 * inverse_kept  # ln 2: SCALE is for powers of 2
    qkv_grad += start.to(tl.int64) * 3 * width + head * SIZE
    store_tile(qkv_grad, queries, length, 3 * width, query_grad, SIZE)


@triton.jit(do_not_specialize=["num_heads", "num_tokens"])
def attention_backward_keys(
    grad, qkv, cu_seqlens, work, seed, log_sums, row_sums, qkv_grad,
    num_heads, num_tokens, threshold, inverse_kept,
    SCALE: tl.constexpr, SIZE: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, DROPS: tl.constexpr, SIGNS: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and of its values, after `attention_backward_queries`.

    With SIGNS the sign of a weight tells whether it is kept. That takes fewer instructions than to
    remember the mask; on Ampere it takes too many registers.
    """
    head, first_key, start, length = work_of(tl.program_id(0), cu_seqlens, work, num_heads)
    if length == 0:
        return
    width = num_heads * SIZE
    keys = first_key + tl.arange(0, KEYS)
    qkv += start.to(tl.int64) * 3 * width + head * SIZE
    grad += start.to(tl.int64) * width + head * SIZE
    log_sums += head.to(tl.int64) * num_tokens + start
    row_sums += head.to(tl.int64) * num_tokens + start
    key = load_tile(qkv + width, keys, length, 3 * width, SIZE)
    value = load_tile(qkv + 2 * width, keys, length, 3 * width, SIZE)
    key_grad = tl.zeros((KEYS, SIZE), tl.float32)
    value_grad = tl.zeros((KEYS, SIZE), tl.float32)
    for first in range(0, length, QUERIES):
        queries = first + tl.arange(0, QUERIES)
        query = load_tile(qkv, queries, length, 3 * width, SIZE)
        grad_tile = load_tile(grad, queries, length, width, SIZE)
        log_sum = tl.load(log_sums + queries, mask=queries < length, other=0.0)
        row_sum = tl.load(row_sums + queries, mask=queries < length, other=0.0)
        weights = weights_again(query, key, log_sum, first_key, length, SCALE, KEYS)
        dropped = weights
        if DROPS:
            kept = keep_tile(tl.load(seed), start + queries, first_key, head, threshold, KEYS)
            if SIGNS:
                weights = tl.where(kept, weights, -weights)
                dropped = positive(weights)
            else:
                dropped = tl.where(kept, weights, 0.0)
        dropped_half = tl.trans(dropped.to(query.dtype))
        value_grad = tl.dot(dropped_half, grad_tile, value_grad, input_precision="ieee")
        weights_grad = tl.dot(grad_tile, tl.trans(value), input_precision="ieee")
        if SIGNS:
            scores_grad = dropped * weights_grad - tl.abs(weights) * row_sum[:, None]
        else:
            if DROPS:
                weights_grad = tl.where(kept, weights_grad, 0.0)
            scores_grad = weights * (weights_grad - row_sum[:, None])
        scores_grad = tl.trans(scores_grad.to(query.dtype))
        key_grad = tl.dot(scores_grad, query, key_grad, input_precision="ieee")
    qkv_grad += start.to(tl.int64) * 3 * width + head * SIZE
    store_tile(qkv_grad + 2 * width, keys, length, 3 * width, value_grad * inverse_kept, SIZE)
    key_grad *= SCALE * 0.6931471805599453 * inverse_kept
    store_tile(qkv_grad + width, keys, length, 3 * width, key_grad, SIZE)
