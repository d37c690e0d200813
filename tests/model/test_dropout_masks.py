"""The masks of a layer's two dropouts are unrelated: between tensors, layers and steps.

Compiled layers draw their own random numbers, which compilers have got wrong before.
"""

from itertools import combinations

import pytest
import torch
from gpu_marks import NEEDS_GPU
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from ds_bert.model.attention import looped_attention, memory_efficient_attention
from ds_bert.model.dropout import replace_dropout
from ds_bert.model.encoder import Encoder

P, NUM_TOKENS, SIZE = 0.1, 1024, 64
FAINT = 0.01  # the first mask shows as small differences within what the second one keeps


def layer_of_ones(device):
    """Both dropouts see ones only, and no residual of the input."""
    config = BertConfig(hidden_size=SIZE, intermediate_size=128, num_attention_heads=1)
    layer = BertLayer(config)
    replace_dropout(layer)
    with torch.no_grad():
        for block in (layer.attention.output, layer.output):
            block.dense.weight.zero_()
            block.dense.bias.fill_(1.0)
        layer.attention.output.LayerNorm.weight.fill_(FAINT)
    return layer.to(device).train()


def masks_of(output):
    """What the first dropout kept (where the second did), and what the second did."""
    second = output > -1  # kept: about 1/3; dropped: about -3
    highest = output.masked_fill(~second, -torch.inf).amax(1, keepdim=True)
    return output > highest - FAINT * 5, second


@pytest.mark.parametrize(
    ("device", "attention", "compiled"),
    [
        ("cpu", looped_attention, False),
        pytest.param("cuda", memory_efficient_attention, True, marks=NEEDS_GPU),
    ],
)
def test_masks_are_unrelated(device, attention, compiled):
    torch.manual_seed(1)
    encoder = Encoder(attention, compiled=compiled)
    layers = [layer_of_ones(device) for _ in range(2)]
    hidden = torch.zeros(NUM_TOKENS, SIZE, device=device)
    borders = torch.arange(0, NUM_TOKENS + 1, 128, device=device, dtype=torch.int32)
    masks = []
    for _step in range(2):
        for layer in layers:
            first, second = masks_of(encoder.layer(layer, hidden, borders, 128).detach())
            masks += [(first, second), (second, torch.ones_like(second))]
    for kept, seen in masks:
        share = kept[seen].double().mean()
        assert abs(share - (1 - P)) < 5 * (P * (1 - P) / seen.sum()) ** 0.5
    for (one, one_seen), (other, other_seen) in combinations(masks, 2):
        if one_seen is other:  # of one layer: were they equal, the share above would be 1
            continue
        seen = one_seen & other_seen
        agreement, expected = (one == other)[seen].double().mean(), P**2 + (1 - P) ** 2
        assert abs(agreement - expected) < 5 * (expected * (1 - expected) / seen.sum()) ** 0.5
