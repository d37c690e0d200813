"""BERT's embeddings and layers on unpadded tokens, from the parameters of stock modules."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from ds_bert_kernels.linear import linear as plain_linear
from torch import Tensor, nn

from ds_bert.fp8.layers import Fp8Layer, Fp8Layers
from ds_bert.model.attention import Attention, looped_attention
from ds_bert.model.elementwise import PLAIN, Elementwise, Linear

_LENGTH_STEP = 128  # attention's max_length is a multiple of this, so compiled code sees few values


class Encoder:
    """How the encoder of a model runs; holds no parameters.

    Args:
        attention: one of `ds_bert.model.attention`.
        linear: computes the layers' matrix products, as `F.linear` does.
        compiled: fuse each layer's element-wise work with torch.compile; one graph serves all
            layers and all numbers of tokens, another one the layers in fp8.
        elementwise: what follows the products; see `ds_bert.model.elementwise_choice`.
        fp8: which layers run in fp8; None: none of them.
    """

    def __init__(
        self,
        attention: Attention = looped_attention,
        linear: Linear = plain_linear,
        compiled: bool = False,
        elementwise: Elementwise = PLAIN,
        fp8: Fp8Layers | None = None,
    ):
        wrap: Callable[[Any], Any] = (
            partial(torch.compile, dynamic=True) if compiled else lambda f: f
        )
        self._embed, self._layer = wrap(_embed), wrap(_layer)
        self._attention, self._linear, self._elementwise = attention, linear, elementwise
        self._fp8 = fp8

    def __call__(self, bert: Any, batch: Any) -> Tensor:
        """Hidden states [T, H] of a `ds_bert.model.batch.Batch` in a `BertModel`."""
        elementwise = self._elementwise
        ids = (batch.input_ids, batch.token_type_ids, batch.position_ids)
        seed = elementwise.embedding_seed(bert.embeddings)
        hidden = self._embed(bert.embeddings, *ids, elementwise, seed)
        max_length = attention_length([batch.max_length])
        layers = bert.encoder.layer
        in_fp8 = [None] * len(layers) if self._fp8 is None else self._fp8.of(layers)
        for layer, fp8 in zip(layers, in_fp8, strict=True):
            hidden = self.layer(layer, hidden, batch.cu_seqlens, max_length, fp8)
        return hidden

    def layer(
        self,
        layer: Any,
        hidden: Tensor,
        cu_seqlens: Tensor,
        max_length: int,
        fp8: Fp8Layer | None = None,
    ) -> Tensor:
        """One layer of [T, H]; see `ds_bert.model.attention` for the borders of sequences."""
        seeds = self._elementwise.norm_seeds(layer)
        how = (self._attention, self._linear, self._elementwise, seeds, fp8)
        return self._layer(layer, hidden, cu_seqlens, max_length, *how)


def attention_length(sequence_lengths: Iterable[int]) -> int:
    """The `max_length` that attention is given: that of the longest sequence or a little more."""
    return -(-max(sequence_lengths) // _LENGTH_STEP) * _LENGTH_STEP


def _embed(
    embeddings: nn.Module,
    input_ids: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    elementwise: Elementwise,
    seed: Tensor | None,
) -> Tensor:
    return elementwise.embed(embeddings, input_ids, token_type_ids, position_ids, seed)


def _layer(
    layer: Any,
    hidden: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    attention: Attention,
    linear: Linear,
    elementwise: Elementwise,
    seeds: Tensor | None,
    fp8: Fp8Layer | None,
) -> Tensor:
    """Query, key and value come from one matrix product."""
    block = layer.attention.self
    projections = (block.query, block.key, block.value)
    if fp8 is None:
        weight = torch.cat([projection.weight for projection in projections])
        qkv = linear(hidden, weight, torch.cat([projection.bias for projection in projections]))
    else:
        qkv = fp8.projections(hidden, *projections)
    qkv = qkv.unflatten(-1, (3, block.num_attention_heads, -1))
    dropout = block.dropout.p if layer.training else 0.0
    context = attention(qkv, cu_seqlens, max_length, dropout)
    end, inner, last = layer.attention.output, layer.intermediate, layer.output
    first, second = (None, None) if seeds is None else (seeds[:1], seeds[1:])
    if fp8 is not None:  # products that add their own biases, with GELU where its result is cast
        attended = fp8.dense(context, end.dense)
        hidden, residual = elementwise.norm_twice(end, attended, None, hidden, first)
        output = fp8.feed_forward(hidden, inner.dense, inner.intermediate_act_fn, last.dense)
        return elementwise.norm(last, output, None, residual, second)
    product = elementwise.product(linear, context, end.dense)
    hidden, residual = elementwise.norm_twice(end, *product, hidden, first)
    activated = elementwise.activate(inner, linear, hidden)
    product = elementwise.product(linear, activated, last.dense)
    return elementwise.norm(last, *product, residual, second)
