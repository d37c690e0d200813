"""Attention in sequences of up to 128 tokens: a program for each sequence and head.

All scores are in registers. Everything is read once and written once: 4 times heads x head size
numbers a token forward, 7 times backward.
"""

import triton
import triton.language as tl
from ds_bert_kernels.tiles.pieces import bounds, keep_tile, load_tile, positive, store_tile


@triton.jit(do_not_specialize=["num_heads", "num_tokens"])
def attention_forward(
    qkv, cu_seqlens, seed, output, log_sums, num_heads, num_tokens, threshold, inverse_kept,
    SCALE: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Output [T, heads x SIZE], and log2 of the sums of exponentials [heads, T]."""
    head = tl.program_id(0) % num_heads
    start, length = bounds(cu_seqlens, tl.program_id(0) // num_heads)
    width = num_heads * SIZE
    tokens = tl.arange(0, TOKENS)
    qkv += start.to(tl.int64) * 3 * width + head * SIZE
    query = load_tile(qkv, tokens, length, 3 * width, SIZE)
    key = load_tile(qkv + width, tokens, length, 3 * width, SIZE)
    value = load_tile(qkv + 2 * width, tokens, length, 3 * width, SIZE)
    scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    scores = tl.where(tokens[None, :] < length, scores, -float("inf"))
    highest = tl.max(scores, 1) * SCALE
    weights = tl.exp2(scores * SCALE - highest[:, None])
    total = tl.sum(weights, 1)
    if DROPS:
        kept = keep_tile(tl.load(seed), start + tokens, 0, head, threshold, TOKENS)
        weights = tl.where(kept, weights, 0.0)
    result = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
    result *= (inverse_kept / total)[:, None]
    output += start.to(tl.int64) * width + head * SIZE
    store_tile(output, tokens, length, width, result, SIZE)
    log_sums += head.to(tl.int64) * num_tokens + start
    tl.store(log_sums + tokens, highest + tl.log2(total), mask=tokens < length)


@triton.jit(do_not_specialize=["num_heads", "num_tokens"])
def attention_backward(
    grad, qkv, cu_seqlens, seed, log_sums, qkv_grad,
    num_heads, num_tokens, threshold, inverse_kept,
    SCALE: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Gradient [T, 3, heads, SIZE] from that of the output. The output itself is not needed."""
    head = tl.program_id(0) % num_heads
    start, length = bounds(cu_seqlens, tl.program_id(0) // num_heads)
    width = num_heads * SIZE
    tokens = tl.arange(0, TOKENS)
    qkv += start.to(tl.int64) * 3 * width + head * SIZE
    qkv_grad += start.to(tl.int64) * 3 * width + head * SIZE
    grad += start.to(tl.int64) * width + head * SIZE
    query = load_tile(qkv, tokens, length, 3 * width, SIZE)
    key = load_tile(qkv + width, tokens, length, 3 * width, SIZE)
    value = load_tile(qkv + 2 * width, tokens, length, 3 * width, SIZE)
    grad_tile = load_tile(grad, tokens, length, width, SIZE)
    log_sums += head.to(tl.int64) * num_tokens + start
    log_sum = tl.load(log_sums + tokens, mask=tokens < length, other=0.0)

    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * SCALE
    weights = tl.exp2(scores - log_sum[:, None])
    weights = tl.where(tokens[None, :] < length, weights, 0.0)
    dropped = weights
    if DROPS:  # the sign of a weight tells whether it is kept: one register for both
        kept = keep_tile(tl.load(seed), start + tokens, 0, head, threshold, TOKENS)
        weights = tl.where(kept, weights, -weights)
        dropped = positive(weights)
    dropped_half = tl.trans(dropped.to(grad_tile.dtype))
    value_grad = tl.dot(dropped_half, grad_tile, input_precision="ieee") * inverse_kept
    store_tile(qkv_grad + 2 * width, tokens, length, 3 * width, value_grad, SIZE)
    # The softmax's gradient; the sum of a row is there at once, since the row is.
    weights_grad = dropped * tl.dot(grad_tile, tl.trans(value), input_precision="ieee")
    row_sum = tl.sum(weights_grad, 1)
    scores_grad = (weights_grad - tl.abs(weights) * row_sum[:, None]).to(query.dtype)
    rescale = SCALE * 0.6931471805599453 * inverse_kept  # ln 2: SCALE is for powers of 2
    query_grad = tl.dot(scores_grad, key, input_precision="ieee") * rescale
    store_tile(qkv_grad, tokens, length, 3 * width, query_grad, SIZE)
    key_grad = tl.dot(tl.trans(scores_grad), query, input_precision="ieee") * rescale
    store_tile(qkv_grad + width, tokens, length, 3 * width, key_grad, SIZE)
