"""Schedules of other systems, step by step against their formulas written anew."""

import json
import math
from dataclasses import MISSING, fields

import numpy as np
import pytest
import torch
from transformers import get_polynomial_decay_schedule_with_warmup

from ds_bert import recipes
from ds_bert.commands.train import parse_command_line
from ds_bert.config import TrainingConfig
from ds_bert.optim.schedules import Shape, learning_rate_factor

T, W = 200, 30


def factors(max_steps=T, warmup_steps=W, **shape):
    options = {"max_steps": max_steps, "warmup_steps": warmup_steps, **shape}
    return [learning_rate_factor(step, **options) for step in range(max_steps)]


def bing_bert(name, rate, step, total, warmup):
    """LE, EE and EP of bing_bert: x is the progress, warmup its share."""
    x = step / total
    if x < warmup:
        return (x / warmup) ** {"LE": 1, "EE": 2, "EP": 1.5}[name]
    return (1 - x) ** 2 if name == "EP" else rate ** ((step - warmup * total) / 25)


EXPONENTIAL = {"lr_scheduler_type": "exponential", "decay_rate": 0.9, "decay_step": 25}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("LE", EXPONENTIAL),
        ("EE", EXPONENTIAL | {"warmup_power": 2}),
        ("EP", {"lr_scheduler_type": "google", "lr_power": 2, "warmup_power": 1.5}),
    ],
)
def test_bing_bert(name, shape):
    expected = [bing_bert(name, 0.9, step, T, W / T) for step in range(T)]
    assert factors(**shape) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("power", "end"), [(1.0, 0.0), (2.0, 0.0), (0.5, 0.03)])
def test_transformers_polynomial(power, end):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3.0)
    theirs = get_polynomial_decay_schedule_with_warmup(optimizer, W, T, lr_end=3 * end, power=power)
    expected = [theirs.lr_lambdas[0](step) for step in range(T)]
    shape = {"lr_scheduler_type": "linear", "lr_power": power, "min_lr_ratio": end}
    assert factors(**shape) == pytest.approx(expected, abs=1e-12)


def test_linear_with_a_final_fraction():
    """MosaicML composer's LinearWithWarmupScheduler, alpha_f 0.02."""
    expected = [
        step / W if step < W else 1 + (0.02 - 1) * (step - W) / (T - W) for step in range(T)
    ]
    found = factors(lr_scheduler_type="linear", min_lr_ratio=0.02)
    assert found == pytest.approx(expected, abs=1e-12)


def test_one_triangle_is_linear_with_half_a_warm_up():
    found = factors(warmup_steps=T // 2, lr_scheduler_type="linear")
    assert found == pytest.approx([1 - abs(2 * step / T - 1) for step in range(T)], abs=1e-12)


def test_logarithmic_warm_up_and_constant():
    found = factors(lr_scheduler_type="constant", warmup_type="log", warmup_min_ratio=0.25)
    expected = [0.25 + 0.75 * min(1.0, math.log(step + 1) / math.log(W)) for step in range(W)]
    assert found == pytest.approx(expected + [1.0] * (T - W), abs=1e-12)


def test_defaults_are_those_of_the_configuration():
    own = {item.name: item.default for item in fields(TrainingConfig)}
    own["decay_steps"] = TrainingConfig().num_decay_steps  # given as steps, as a share or not
    shape = [item for item in fields(Shape) if item.default is not MISSING]
    assert len(shape) == 9
    assert all(own[item.name] == item.default for item in shape)


def rates(name):
    """Learning rates of all steps of a recipe that comes with ds_bert."""
    config, recipe = parse_command_line(["--ds_config", name])
    shape = Shape(**config.schedule)
    peak = recipe["optimizer"]["params"]["lr"]
    return [peak * shape.factor(step) for step in range(config.max_steps)]


def test_googles_two_phases_are_one_line():
    first, second = rates("google_base_128"), rates("google_base_512")
    total = 1_000_000
    expected = [
        1e-4 * (step / 10_000 if step < 10_000 else 1 - step / total) for step in range(total)
    ]
    assert len(first + second) == total
    assert np.allclose(first + second, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "rate", "offset", "warmup", "decay_step"),
    [("bing_bert_64k_128", 11e-3, 1e-3, 0.06, 250), ("bing_bert_64k_512", 2e-3, 0, 0.02, 150)],
)
def test_the_rates_of_the_44_minutes(name, rate, offset, warmup, decay_step):
    def expected(step):
        x, end = step / 7500, warmup * 7500
        return rate * ((x / warmup) ** 2 if x < warmup else 0.9 ** ((step - end) / decay_step))

    found = rates(name)
    assert found == pytest.approx([offset + expected(step) for step in range(len(found))], rel=1e-9)


def test_decoupled_decay_of_mosaicml():
    """Composer multiplies weights by 1 - decay x rate / peak, AdamW by 1 - decay x rate."""
    recipe = json.loads(recipes.find("mosaicbert_baseline").read_text())
    params = recipe["optimizer"]["params"]
    assert params["weight_decay"] == pytest.approx(1e-5 / params["lr"])
