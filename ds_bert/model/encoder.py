"""BERT's embeddings and layers on unpadded tokens, from the parameters of stock modules."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from ds_bert_kernels.linear import linear as plain_linear
from torch import Tensor, nn

from ds_bert.fp8.layers import Fp8Layers
from ds_bert.model.attention import Attention, looped_attention

Linear = Callable[[Tensor, Tensor, Tensor], Tensor]  # input, weight, bias
_LENGTH_STEP = 128  # attention's max_length is a multiple of this, so compiled code sees few values


class Products(Protocol):
    """A layer's linear layers; what they return has their outputs as its last dimension."""

    def projections(self, x: Tensor, *modules: nn.Linear) -> Tensor:
        """Several of the same input, their outputs side by side."""

    def dense(self, x: Tensor, module: nn.Linear) -> Tensor:
        """What attention's result goes through."""

    def feed_forward(self, x: Tensor, first: nn.Linear, activation: Any, last: nn.Linear) -> Tensor:
        """The two around an activation."""


class PlainProducts(NamedTuple):
    """All of them by one function."""

    linear: Linear = plain_linear

    def projections(self, x: Tensor, *modules: nn.Linear) -> Tensor:
        """In one matrix product."""
        weight = torch.cat([module.weight for module in modules])
        return self.linear(x, weight, torch.cat([module.bias for module in modules]))

    def dense(self, x: Tensor, module: nn.Linear) -> Tensor:
        """See `Products`."""
        return self.linear(x, module.weight, module.bias)

    def feed_forward(self, x: Tensor, first: nn.Linear, activation: Any, last: nn.Linear) -> Tensor:
        """See `Products`."""
        return self.dense(activation(self.dense(x, first)), last)


class Encoder:
    """How the encoder of a model runs; holds no parameters.

    Args:
        attention: one of `ds_bert.model.attention`.
        linear: computes the layers' matrix products, as `F.linear` does.
        compiled: fuse each layer's element-wise work with torch.compile; one graph serves all
            layers and all numbers of tokens, another one the layers in fp8.
        fp8: which layers run in fp8; None: none of them.
    """

    def __init__(
        self,
        attention: Attention = looped_attention,
        linear: Linear = plain_linear,
        compiled: bool = False,
        fp8: Fp8Layers | None = None,
    ):
        wrap: Callable[[Any], Any] = (
            partial(torch.compile, dynamic=True) if compiled else lambda f: f
        )
        self._embed, self._layer = wrap(_embed), wrap(_layer)
        self._attention, self._plain, self._fp8 = attention, PlainProducts(linear), fp8

    def __call__(self, bert: Any, batch: Any) -> Tensor:
        """Hidden states [T, H] of a `ds_bert.model.batch.Batch` in a `BertModel`."""
        hidden = self._embed(
            bert.embeddings, batch.input_ids, batch.token_type_ids, batch.position_ids
        )
        max_length = attention_length([batch.max_length])
        layers = bert.encoder.layer
        in_fp8 = [None] * len(layers) if self._fp8 is None else self._fp8.of(layers)
        for layer, products in zip(layers, in_fp8, strict=True):
            hidden = self.layer(layer, hidden, batch.cu_seqlens, max_length, products)
        return hidden

    def layer(
        self,
        layer: nn.Module,
        hidden: Tensor,
        cu_seqlens: Tensor,
        max_length: int,
        products: Products | None = None,
    ) -> Tensor:
        """One layer of [T, H]; see `ds_bert.model.attention` for the borders of sequences."""
        products = self._plain if products is None else products
        return self._layer(layer, hidden, cu_seqlens, max_length, self._attention, products)


def attention_length(sequence_lengths: Iterable[int]) -> int:
    """The `max_length` that attention is given: that of the longest sequence or a little more."""
    return -(-max(sequence_lengths) // _LENGTH_STEP) * _LENGTH_STEP


def _embed(embeddings: nn.Module, *ids: Tensor) -> Tensor:
    input_ids, token_type_ids, position_ids = (part[None] for part in ids)
    return embeddings(input_ids, token_type_ids, position_ids)[0]


def _layer(
    layer: Any,
    hidden: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    attention: Attention,
    products: Products,
) -> Tensor:
    def add(block: Any, output: Tensor, residual: Tensor) -> Tensor:
        return block.LayerNorm(block.dropout(output) + residual)

    block = layer.attention.self
    qkv = products.projections(hidden, block.query, block.key, block.value)
    qkv = qkv.unflatten(-1, (3, block.num_attention_heads, -1))
    dropout = block.dropout.p if layer.training else 0.0
    context = attention(qkv, cu_seqlens, max_length, dropout)
    first, last = layer.attention.output, layer.output
    hidden = add(first, products.dense(context, first.dense), hidden)
    inner = layer.intermediate
    output = products.feed_forward(hidden, inner.dense, inner.intermediate_act_fn, last.dense)
    return add(last, output, hidden)
