"""Plain-torch twin of attention within the sequences of an unpadded batch."""

from itertools import pairwise

import torch
from ds_bert_kernels.reference.philox import random_bits
from torch import Tensor


def varlen_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_length: int, dropout: float, seed: Tensor | None
) -> Tensor:
    """dropout(softmax(query key^T / sqrt(head size))) value of each sequence and head by itself.

    Args:
        qkv: [T, 3, heads, head size], query, key and value of the tokens of B sequences in a row.
        cu_seqlens: int32 [B + 1], the first token of each sequence, and T.
        max_length: at least the tokens of the longest sequence.
        dropout: probability of dropping a weight, in [0, 1), rounded to 2**-16.
        seed: int64, one element, on qkv's device; the same one drops the same weights. None where
            dropout is 0.

    Returns:
        [T, heads x head size], dtype of qkv. The softmax is taken in fp32 or in float64.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.
    """
    del max_length
    level = drop_level(dropout)
    outputs = [qkv[:0, 0].flatten(1)]  # of a batch without sequences
    for start, end in pairwise(cu_seqlens.tolist()):
        query, key, value = qkv[start:end].permute(1, 2, 0, 3)
        scores = query @ key.transpose(1, 2) * qkv.shape[-1] ** -0.5
        weights = torch.softmax(scores.to(torch.promote_types(qkv.dtype, torch.float32)), -1)
        if level:
            assert seed is not None
            kept = keep_mask(seed, start, end - start, qkv.shape[2], level)
            weights = torch.where(kept, weights / (1 - level / 2**16), 0.0)
        outputs.append((weights.to(qkv.dtype) @ value).transpose(0, 1).flatten(1))
    return torch.cat(outputs)


def drop_level(dropout: float) -> int:
    """How many of 2**16 numbers mean that a weight is dropped: never all of them."""
    return min(round(dropout * 2**16), 2**16 - 1)


def keep_mask(seed: Tensor, start: int, length: int, num_heads: int, level: int) -> Tensor:
    """Which weights of a sequence dropout keeps.

    16 random bits decide on a weight: the upper and lower halves of the four numbers of counter
    (query's token in the batch, call, head), call c = 8 (j // 64) + j % 8 being for the keys j that
    are 8 apart.

    Args:
        seed: int64, one element, on any device.
        start: the sequence's first token in the batch.
        length: its tokens L.
        num_heads: number of heads.
        level: `drop_level` of the probability.

    Returns:
        bool [heads, L, L], by query and key.
    """
    keys = torch.arange(-(-length // 64) * 64, device=seed.device)
    heads = torch.arange(num_heads, device=seed.device)[:, None, None]
    queries = start + torch.arange(length, device=seed.device)[:, None]
    bits = torch.stack(random_bits(seed, queries, keys[: len(keys) // 8], heads), -1)
    halves = torch.stack([bits >> 16, (bits << 16) >> 16], -1).flatten(-2)
    call, number = keys // 64 * 8 + keys % 8, keys // 8 % 8
    return halves[..., call, number][..., :length] >= level - 2**15
