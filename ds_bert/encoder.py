"""BERT's embeddings and layers on unpadded tokens, from the parameters of stock modules."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ds_bert.attention import Attention, looped_attention
from ds_bert.fp8 import Fp8Linear, fp8_linear

_LENGTH_STEP = 128  # attention's max_length is a multiple of this, so compiled code sees few values


class Encoder:
    """How the encoder of a model runs; holds no parameters.

    Args:
        attention: one of `ds_bert.attention`.
        compiled: fuse each layer's element-wise work with torch.compile; one graph serves all
            layers and all numbers of tokens.
    """

    def __init__(self, attention: Attention = looped_attention, compiled: bool = False):
        wrap: Callable[[Any], Any] = (
            partial(torch.compile, dynamic=True) if compiled else lambda f: f
        )
        self._embed, self._layer, self._attention = wrap(_embed), wrap(_layer), attention

    def __call__(self, bert: Any, batch: Any) -> Tensor:
        """Hidden states [T, H] of a `ds_bert.batches.Batch` in a `BertModel`."""
        hidden = self._embed(
            bert.embeddings, batch.input_ids, batch.token_type_ids, batch.position_ids
        )
        max_length = -(-max(batch.sequence_lengths) // _LENGTH_STEP) * _LENGTH_STEP
        for layer in bert.encoder.layer:
            hidden = self._layer(layer, hidden, batch.cu_seqlens, max_length, self._attention)
        return hidden


def _embed(embeddings: nn.Module, *ids: Tensor) -> Tensor:
    input_ids, token_type_ids, position_ids = (part[None] for part in ids)
    return embeddings(input_ids, token_type_ids, position_ids)[0]


def _layer(
    layer: Any, hidden: Tensor, cu_seqlens: Tensor, max_length: int, attention: Attention
) -> Tensor:
    """One layer of [T, H]; query, key and value come from one matrix product."""
    block = layer.attention.self
    projections = (block.query, block.key, block.value)
    weight = torch.cat([projection.weight for projection in projections])
    bias = torch.cat([projection.bias for projection in projections])
    linear = fp8_linear if isinstance(block.query, Fp8Linear) else F.linear
    qkv = linear(hidden, weight, bias).unflatten(-1, (3, block.num_attention_heads, -1))
    dropout = block.dropout.p if layer.training else 0.0
    context = attention(qkv, cu_seqlens, max_length, dropout)
    hidden = layer.attention.output(context, hidden)
    return layer.output(layer.intermediate(hidden), hidden)
