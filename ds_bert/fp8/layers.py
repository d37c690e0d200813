"""The layers of a model that run in fp8, and what they keep from step to step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ds_bert.fp8.products import Operands, feed_forward, linear
from ds_bert.fp8.recipe import DELAYED, Fp8Recipe
from ds_bert.fp8.scales import Scales
from ds_bert.fp8.weights import Weights

# The `approximate` of `F.gelu` by transformers' names; other activations stay apart from the cast.
GELU = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


class Fp8Layer(NamedTuple):
    """The products of one layer, for one forward pass."""

    qkv: Operands
    context: Operands
    inner: Operands
    output: Operands
    gelu: str | None

    def projections(self, x: Tensor, *modules: nn.Linear) -> Tensor:
        """Query, key and value side by side."""
        return linear(x, modules, self.qkv)

    def dense(self, x: Tensor, module: nn.Linear) -> Tensor:
        """What attention's result goes through."""
        return linear(x, [module], self.context)

    def feed_forward(self, x: Tensor, first: nn.Linear, activation: Any, last: nn.Linear) -> Tensor:
        """The two layers around an activation."""
        if self.gelu is None:
            return linear(activation(linear(x, [first], self.inner)), [last], self.output)
        return feed_forward(x, (first, last), (self.inner, self.output), self.gelu)


class Fp8Layers:
    """What the layers in fp8 of a model keep.

    Args:
        recipe: how they run.
        config: of the model, a `BertConfig`.
        device: where it will be.

    Attributes:
        recipe: see above.
        scales: of all of their products.
    """

    def __init__(self, recipe: Fp8Recipe, config: Any, device: torch.device):
        self.recipe, self._gelu = recipe, GELU.get(config.hidden_act)
        self._numbers = recipe.layers(config.num_hidden_layers)
        self._weights = Weights()
        self.scales = Scales(4 * len(self._numbers), device, recipe.scaling == DELAYED)

    def of(self, layers: Sequence[Any]) -> list[Fp8Layer | None]:
        """For one forward pass, by layer; None: not in fp8.

        Args:
            layers: all `BertLayer`s of the model.
        """
        weights = self._weights.get(
            [group for number in self._numbers for group in _products(layers[number])]
        )
        pairs = zip(weights, self.scales.places(), strict=True)
        operands = [Operands(*pair, self.recipe.fast_gradients) for pair in pairs]
        made: list[Fp8Layer | None] = [None] * len(layers)
        for place, number in enumerate(self._numbers):
            qkv, context, inner, output = operands[4 * place : 4 * place + 4]
            made[number] = Fp8Layer(qkv, context, inner, output, self._gelu)
        return made


def _products(layer: Any) -> list[list[nn.Linear]]:
    """The linear layers of a `BertLayer`; those that share an input together."""
    own = layer.attention.self
    return [
        [own.query, own.key, own.value],
        [layer.attention.output.dense],
        [layer.intermediate.dense],
        [layer.output.dense],
    ]
