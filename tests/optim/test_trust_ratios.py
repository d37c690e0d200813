"""Trust ratios by layer, against the definition on a first step."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ds_bert.optim.optimizers import build_optimizer
from ds_bert.optim.trust_ratios import trust_ratios

EPS, DECAY = 1e-6, 0.01


def build(kind, **options):
    torch.manual_seed(0)
    layers = nn.ModuleDict({"layer": nn.ModuleList([nn.Linear(4, 3), nn.Linear(3, 2)])})
    parts = {"embeddings": nn.Embedding(5, 4), "encoder": layers}
    model = nn.ModuleDict({"bert": nn.ModuleDict(parts), "cls": nn.Linear(2, 2)})
    optimizer = build_optimizer(model, {"type": kind, "params": {"lr": 0.1, "eps": EPS, **options}})
    return model, optimizer


def ratio(tensor, gradient, decay):
    """Moments are gradients after one step with bias correction; You et al. 2020, algorithm 2."""
    update = gradient / (gradient.abs() + EPS) + decay * tensor
    return (tensor.norm() / update.norm()).item() if tensor.norm() > 0 else 1.0


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_ratios_are_those_of_the_definition(adapt, wrapped):
    model, optimizer = build("Lamb", weight_decay=DECAY, adapt_without_decay=adapt)
    expected = {"embeddings": [], "layer 0": [], "layer 1": [], "heads": []}
    for (name, tensor), layer in zip(
        model.named_parameters(),
        ("embeddings", "layer 0", "layer 0", "layer 1", "layer 1", "heads", "heads"),
        strict=True,
    ):
        tensor.grad = torch.randn_like(tensor)
        is_bias = name.endswith("bias")
        if adapt or not is_bias:
            one = ratio(tensor.detach(), tensor.grad, 0.0 if is_bias else DECAY)
            expected[layer].append(math.log(one))
    held = SimpleNamespace(optimizer=optimizer) if wrapped else optimizer
    optimizer.step()
    found = trust_ratios(SimpleNamespace(optimizer=held, module=model))
    means = {layer: math.exp(sum(logs) / len(logs)) for layer, logs in expected.items()}
    assert found == pytest.approx(means, rel=1e-5)


def test_limits_hold():
    model, optimizer = build("Lamb", max_trust_ratio=0.01)
    for tensor in model.parameters():
        tensor.grad = torch.randn_like(tensor)
    optimizer.step()
    found = trust_ratios(SimpleNamespace(optimizer=optimizer, module=model))
    assert found == pytest.approx(dict.fromkeys(found, 0.01)) and len(found) == 4


def test_other_optimizers_have_none():
    model, optimizer = build("AdamW")
    assert trust_ratios(SimpleNamespace(optimizer=optimizer, module=model)) is None
