"""Optimizers by name: decay groups, options, refusals."""

import math

import lamb_reference
import pytest
import torch
from torch import nn

from ds_bert.errors import ConfigurationError
from ds_bert.optim.lamb import Lamb
from ds_bert.optim.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    check_optimizer,
    parameter_groups,
)


def test_parameter_groups_of_bert():
    model = lamb_reference.build_model()
    decayed, exempt = parameter_groups(model, 0.01)
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    found = [names[id(tensor)] for group in (decayed, exempt) for tensor in group["params"]]
    assert sorted(found) == sorted(names.values())
    assert "bert.embeddings.word_embeddings.weight" in found
    for tensor in exempt["params"]:
        assert "LayerNorm" in names[id(tensor)] or names[id(tensor)].endswith("bias")
    assert all(tensor.dim() == 2 for tensor in decayed["params"])
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.01, 0.0)


def test_build_optimizer():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    adamw = build_optimizer(model, {"type": "AdamW", "params": {"lr": 1e-3, "eps": 1e-8}})
    assert type(adamw) is torch.optim.AdamW
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.01, 0.0]
    assert adamw.defaults["eps"] == 1e-8
    lamb = build_optimizer(model, {"type": "Lamb", "params": {"lr": 1, "betas": [0.8, 0.9]}})
    assert isinstance(lamb, Lamb) and lamb.param_groups[0]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "lamb", "params": {"lr": 1}}, 'did you mean "Lamb"'),
        ({"type": "Adm", "params": {"lr": 1}}, 'did you mean "Adam"'),
        ({"type": "Muon", "params": {"lr": 1}}, "found 'Muon'; known: AdamW, Adam, Lamb"),
        ({"params": {"lr": 1}}, "optimizer.type: found None"),
        ({"type": "Lamb", "param": {}}, 'did you mean "params"'),
        ({"type": "Lamb", "params": {"lr": 1, "weigth_decay": 0}}, 'did you mean "weight_decay"'),
        ({"type": "AdamW", "params": {"lr": 1, "max_trust_ratio": 1}}, "unknown key"),
        ({"type": "Lamb", "params": {}}, "lr is missing"),
        ({"type": "Lamb", "params": {"lr": "1e-3"}}, "lr: found '1e-3', expected a number"),
        ({"type": "Lamb", "params": {"lr": math.nan}}, "lr: found nan"),
        ({"type": "Lamb", "params": {"lr": 0}}, "lr: found 0, expected a number above 0"),
        ({"type": "Lamb", "params": {"lr": 1, "betas": [0.9]}}, "expected two numbers"),
        ({"type": "Lamb", "params": {"lr": 1, "betas": [0.9, 1.0]}}, "betas: found .*not includ"),
        ({"type": "AdamW", "params": {"lr": 1, "betas": [-0.1, 0.9]}}, "betas: found"),
        ({"type": "AdamW", "params": {"lr": 1, "eps": 0}}, "eps: found 0"),
        ({"type": "AdamW", "params": {"lr": 1, "weight_decay": -1}}, "of at least 0"),
        ({"type": "Lamb", "params": {"lr": 1, "bias_correction": 1}}, "expected true or false"),
        (
            {"type": "Lamb", "params": {"lr": 1, "min_trust_ratio": 2, "max_trust_ratio": 1}},
            "min_trust_ratio 2 is above",
        ),
    ],
)
def test_bad_optimizer_configuration(config, message):
    with pytest.raises(ConfigurationError, match=message):
        build_optimizer(nn.Linear(2, 2), config)


def test_defaults_are_filled_in():
    adam = {"lr": 1, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}
    adam |= {"bias_correction": True}
    assert check_optimizer({"type": "AdamW", "params": {"lr": 1}}) == ("AdamW", adam)
    given = {"lr": 1, "eps": 1e-8, "min_trust_ratio": 0.1, "adapt_without_decay": False}
    own = {"max_trust_ratio": None, "pre_normalize_gradients": False}
    assert check_optimizer({"type": "Lamb", "params": given}) == ("Lamb", adam | own | given)


def build_and_step(kind, **params):
    """An optimizer of the two tensors of a small layer, after one step."""
    optimizer = build_optimizer(nn.Linear(2, 2), {"type": kind, "params": params})
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_bytes_of_state(kind):
    optimizer = build_and_step(kind, lr=1)
    per_tensor = [
        (tensor.numel(), sum(v.nbytes for name, v in state.items() if name != "step"))
        for tensor, state in optimizer.state.items()
    ]
    assert len(per_tensor) == 2
    assert all(size == OPTIMIZERS[kind].state_bytes * n for n, size in per_tensor)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_restart_counts_steps_anew_and_keeps_the_moments(kind):
    optimizer = build_and_step(kind, lr=1)
    OPTIMIZERS[kind].restart(optimizer)
    for state in optimizer.state.values():
        assert state["step"] == 0
        assert all(bool(state[name].all()) for name in state if name != "step")


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_loaded_state_leaves_the_options_alone(kind):
    saved = build_and_step(kind, lr=1, betas=[0.5, 0.5])
    optimizer = build_optimizer(nn.Linear(2, 2), {"type": kind, "params": {"lr": 2, "eps": 1e-4}})
    optimizer.load_state_dict(saved.state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (2, (0.9, 0.999), 1e-4)
    assert [float(state["step"]) for state in optimizer.state.values()] == [1, 1]
