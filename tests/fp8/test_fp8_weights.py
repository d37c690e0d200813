"""Weights in fp8 are made once per optimizer step, and never older than that."""

import pytest
import torch
from torch import nn

from ds_bert.fp8 import weights as module
from ds_bert.fp8.cast import E4M3
from ds_bert.fp8.weights import Weights


@pytest.fixture
def groups():
    torch.manual_seed(0)
    return [[nn.Linear(16, 32), nn.Linear(16, 16)], [nn.Linear(32, 16)]]


@pytest.fixture
def made(monkeypatch):
    """How often a group was cast."""
    calls, original = [], module._cast
    monkeypatch.setattr(module, "_cast", lambda group: calls.append(1) or original(group))
    return calls


def value(weight):
    return weight.rows.float() * weight.scale


def test_layers_side_by_side(groups):
    both, single = Weights().get(groups)
    assert both.rows.shape == (48, 16) and both.columns.shape == (16, 48)
    assert both.rows.dtype == both.columns.dtype == E4M3
    exact = torch.cat([part.weight for part in groups[0]])
    assert (value(both) - exact).abs().max() <= exact.abs().max() / 16
    assert torch.equal(both.rows.float().t(), both.columns.float())
    assert torch.equal(both.bias, torch.cat([part.bias for part in groups[0]]))
    assert single.rows.shape == (16, 32)


def test_once_for_all_micro_batches(groups, made):
    weights = Weights()
    optimizer = torch.optim.SGD([p for group in groups for m in group for p in m.parameters()])
    for step in range(3):
        for _ in range(4):
            weights.get(groups)
        assert len(made) == 2 * (step + 1)
        optimizer.step()


def test_as_zero_writes_weights(groups, made):
    """Parameters are views of a flat tensor that an optimizer of masters knows nothing of."""
    linear = groups[1][0]
    flat = linear.weight.detach().flatten().clone()
    linear.weight.data = flat.view(16, 32)
    master = flat.clone()
    master.grad = torch.ones_like(master)
    optimizer, weights = torch.optim.SGD([master], lr=1.0), Weights()
    version, before = linear.weight._version, value(weights.get(groups)[1])
    optimizer.step()
    flat.copy_(master)
    assert linear.weight._version == version, "the parameter does not tell"
    after = value(weights.get(groups)[1])
    assert (before - after - 1).abs().max() < 0.1


@pytest.mark.parametrize("how", ["load_state_dict", "in place", "exchanged"])
def test_other_weights_are_seen(groups, how):
    linear, weights = groups[1][0], Weights()
    weights.get(groups)
    if how == "load_state_dict":
        linear.load_state_dict({"weight": torch.ones(16, 32), "bias": torch.ones(16)})
    elif how == "in place":
        with torch.no_grad():
            linear.weight.fill_(1.0)
            linear.bias.fill_(1.0)
    else:
        linear.weight.data, linear.bias.data = torch.ones(16, 32), torch.ones(16)
    found = weights.get(groups)[1]
    assert torch.equal(value(found), torch.ones(16, 32))
    assert torch.equal(found.bias, torch.ones(16))
