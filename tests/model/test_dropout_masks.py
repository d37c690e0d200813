"""Dropout masks of the encoder: unrelated between layers, tensors, micro-batches and steps.

Masks never leave a layer, compiled or not. Here its weights are such that they can be read from its
output: the layer's norms keep the order of values within a token.
"""

from itertools import combinations

import pytest
import torch
from gpu_marks import NEEDS_GPU
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from ds_bert.model.attention import (
    flash_attention,
    looped_attention,
    memory_efficient_attention,
    triton_attention,
)
from ds_bert.model.dropout import replace_dropout
from ds_bert.model.encoder import Encoder

P, LENGTH, SEQUENCES, HEADS, LAYERS, MICRO_BATCHES, STEPS = 0.3, 64, 4, 2, 3, 2, 2
SIZE, TOKENS = HEADS * LENGTH, SEQUENCES * LENGTH  # of a mask [T, H]
# Correlations of unrelated masks have a standard deviation of 1 / sqrt(T H). Over five of them are
# six in ten million; a test has up to 500.
BOUND = 5 / (TOKENS * SIZE) ** 0.5


@pytest.fixture
def layers():
    """Layers without weights, in training."""
    config = BertConfig(
        vocab_size=8,
        num_hidden_layers=LAYERS,
        hidden_size=SIZE,
        num_attention_heads=HEADS,
        intermediate_size=8,
        hidden_dropout_prob=P,
        attention_probs_dropout_prob=P,
    )
    model = BertModel(config)
    replace_dropout(model)
    layers = model.train().encoder.layer
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return layers


def halves(values: Tensor) -> Tensor:
    """Which of each token's values are in the upper half of their range; NaN counts for nothing."""
    low = values.nan_to_num(torch.inf).amin(-1, keepdim=True)
    high = values.nan_to_num(-torch.inf).amax(-1, keepdim=True)
    return values > (low + high) / 2


def show_hidden_masks(layers) -> Tensor:
    """Let both sums of a layer show what their dropout kept; returns the layers' input.

    The first sum is 1 / (1 - p) or 0, so its norm has two values, about 2 apart. The second adds 10
    or 0 to that.
    """
    for layer in layers:
        nn.init.constant_(layer.attention.output.dense.bias, 1.0)
        nn.init.constant_(layer.output.dense.bias, 10 * (1 - P))
    return torch.zeros(TOKENS, SIZE)


def read_hidden_masks(output: Tensor) -> list[Tensor]:
    """Both masks, from four different values in each token."""
    second = halves(output)
    first = torch.where(
        second,
        halves(output.where(second, torch.nan)),
        halves(output.where(~second, torch.nan)),
    )
    return [first, second]


def show_attention_masks(layers) -> Tensor:
    """Let a layer show what attention's dropout kept; returns the layers' input.

    All attend equally. Token i of a sequence has 1 at place i and 0 elsewhere, and values are the
    input: so place j of what i gets tells whether it attends to j.
    """
    one_hot = torch.eye(LENGTH)
    for layer in layers:
        layer.attention.output.dropout.p = layer.output.dropout.p = 0.0
        for head in layer.attention.self.value.weight.data.split(LENGTH):
            head[:, :LENGTH] = one_hot
        layer.attention.output.dense.weight.data = 16 * LENGTH * torch.eye(SIZE)
    return torch.cat([one_hot.repeat(SEQUENCES, 1), torch.zeros(TOKENS, SIZE - LENGTH)], 1)


def read_attention_masks(output: Tensor) -> list[Tensor]:
    """One mask [T, heads x tokens of a sequence]: 23 and 0, one more at a token's own place."""
    return [halves(output)]


DEVICES = [
    pytest.param("cpu", torch.float32, looped_attention, id="cpu"),
    pytest.param("cpu", torch.bfloat16, looped_attention, id="cpu bf16"),
    pytest.param("cuda", torch.float32, memory_efficient_attention, id="cuda", marks=NEEDS_GPU),
    pytest.param("cuda", torch.bfloat16, flash_attention, id="cuda bf16", marks=NEEDS_GPU),
    pytest.param("cuda", torch.bfloat16, triton_attention, id="cuda triton", marks=NEEDS_GPU),
]


@pytest.mark.parametrize(("device", "dtype", "attention"), DEVICES)
@pytest.mark.parametrize(
    ("show", "read"),
    [(show_hidden_masks, read_hidden_masks), (show_attention_masks, read_attention_masks)],
    ids=["hidden", "attention"],
)
def test_masks_are_unrelated(layers, device, dtype, attention, show, read):
    """On a GPU those of compiled layers, where one graph draws for all of them."""
    hidden = show(layers).to(device, dtype).requires_grad_()
    layers.to(device, dtype)
    encode = Encoder(attention, compiled=device == "cuda")
    borders = (LENGTH * torch.arange(SEQUENCES + 1, dtype=torch.int32)).to(device)
    torch.manual_seed(0)
    masks = []
    for _ in range(STEPS):
        for _ in range(MICRO_BATCHES):
            outputs = [encode.layer(layer, hidden, borders, 128) for layer in layers]
            torch.stack(outputs).square().sum().backward()  # which draws nothing
            masks += [mask for output in outputs for mask in read(output.detach().float().cpu())]
    require_unrelated(masks)


def require_unrelated(masks: list[Tensor]) -> None:
    """Right share; no mask is another one or like it; places of one are not like their neighbours.

    Args:
        masks: bool [T, H] each, what was kept.
    """
    spread = (P * (1 - P)) ** 0.5
    centred = [(mask.double() - (1 - P)).flatten() / spread for mask in masks]
    for values in centred:
        assert abs(values.mean()) < BOUND
        for lag in (1, 2, 3, 4, 8, SIZE, LENGTH * SIZE):
            assert abs((values[:-lag] * values[lag:]).mean()) < BOUND * 1.3  # of fewer places
    for one, other in combinations(range(len(masks)), 2):
        assert not torch.equal(masks[one], masks[other])
        assert abs((centred[one] * centred[other]).mean()) < BOUND


def test_related_masks_are_found():
    torch.manual_seed(0)
    masks = [torch.rand(TOKENS, SIZE) > P for _ in range(3)]
    require_unrelated(masks)
    partly = torch.where(torch.rand(TOKENS, SIZE) < 0.05, masks[0], masks[1])
    repeated = masks[0][:, ::2].repeat_interleave(2, 1)
    shifted = torch.where(torch.rand(TOKENS, SIZE) < 0.05, masks[2].roll(1, 0), masks[2])
    for wrong in (masks[0], partly, repeated, shifted):
        with pytest.raises(AssertionError):
            require_unrelated([*masks, wrong])
