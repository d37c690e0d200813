"""What stands between a model's matrix products: the modules' own operations, or fused kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from ds_bert_kernels.reference.philox import draw_seeds
from torch import Tensor

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # input, weight, bias


@dataclass(frozen=True)
class Elementwise:
    """How bias, activation, dropout, addition and LayerNorm run.

    Attributes:
        norms: module with `dropout_add_layer_norm`, as `ds_bert_kernels.dropout_add_norm`, or its
            twin; None: the layer's modules.
        gelu: `bias_gelu` of a similar module, with its `approximate`; None: the layer's module.
        embeddings: `embed` of a similar module; None: the model's module.
    """

    norms: Any = None
    gelu: Callable[[Tensor, Tensor], Tensor] | None = None
    embeddings: Callable[..., Tensor] | None = None

    def names(self) -> list[str]:
        """What is fused, in words."""
        parts = {"norms": self.norms, "GELU": self.gelu, "embeddings": self.embeddings}
        return [f"fused {name}" for name, part in parts.items() if part is not None]

    def norm_seeds(self, layer: Any) -> Tensor | None:
        """Of the masks of a layer's two norms, [2]; None where modules draw the masks."""
        return None if self.norms is None else _seeds(layer.attention.output, layer.output)

    def embedding_seed(self, embeddings: Any) -> Tensor | None:
        """Of the mask of the embeddings, [1]; None where the module draws it."""
        return None if self.embeddings is None else _seeds(embeddings)

    def embed(
        self,
        module: Any,
        input_ids: Tensor,
        token_type_ids: Tensor,
        position_ids: Tensor,
        seed: Tensor | None,
    ) -> Tensor:
        """The embeddings [T, H] of ids [T], after LayerNorm and dropout."""
        if self.embeddings is None:
            return module(input_ids[None], token_type_ids[None], position_ids[None])[0]
        tables = (module.word_embeddings, module.token_type_embeddings, module.position_embeddings)
        norm, padding = module.LayerNorm, module.word_embeddings.padding_idx
        return self.embeddings(
            input_ids, token_type_ids, position_ids, *(table.weight for table in tables),
            norm.weight, norm.bias, norm.eps, _dropout(module), seed,
            -1 if padding is None else padding,
        )  # fmt: skip

    def product(self, linear: Linear, x: Tensor, module: Any) -> tuple[Tensor, Tensor | None]:
        """What `norm` begins with: a linear layer, and its bias if that is left to `norm`."""
        if self.norms is None:
            return linear(x, module.weight, module.bias), None
        return linear(x, module.weight, None), module.bias

    def norm(
        self, block: Any, x: Tensor, bias: Tensor | None, residual: Tensor, seed: Tensor | None
    ) -> Tensor:
        """The end of a block, [T, H] of [T, H]: bias, dropout, addition, LayerNorm."""
        if self.norms is None:
            return block.LayerNorm(block.dropout(x) + residual)
        return self.norms.dropout_add_layer_norm(x, bias, residual, *_vectors(block), seed)

    def norm_twice(
        self, block: Any, x: Tensor, bias: Tensor | None, residual: Tensor, seed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`norm` under two names, for a product and for the next residual."""
        if self.norms is None:
            hidden = self.norm(block, x, bias, residual, seed)
            return hidden, hidden
        return self.norms.dropout_add_layer_norm_twice(x, bias, residual, *_vectors(block), seed)

    def activate(self, block: Any, linear: Linear, x: Tensor) -> Tensor:
        """The beginning of the feed-forward block, [T, N] of [T, H]: product, bias, activation."""
        if self.gelu is None:
            return block.intermediate_act_fn(linear(x, block.dense.weight, block.dense.bias))
        return self.gelu(linear(x, block.dense.weight, None), block.dense.bias)


PLAIN = Elementwise()


def _seeds(*blocks: Any) -> Tensor:
    """A seed for each block's mask; in evaluation none is drawn."""
    device = blocks[0].LayerNorm.weight.device
    if any(_dropout(block) for block in blocks):
        return draw_seeds(len(blocks), device)
    return torch.zeros(len(blocks), dtype=torch.int64, device=device)


def _dropout(block: Any) -> float:
    return block.dropout.p if block.dropout.training else 0.0


def _vectors(block: Any) -> tuple[Any, ...]:
    norm = block.LayerNorm
    return norm.weight, norm.bias, norm.eps, _dropout(block)
