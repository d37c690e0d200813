"""Learning rate schedules: exact values, both ends, and resume."""

import math

import pytest
import torch
from transformers import get_scheduler, get_wsd_schedule

from ds_bert.config import TrainingConfig
from ds_bert.errors import ConfigurationError
from ds_bert.optim.schedules import build_scheduler, learning_rate_factor

T, W = 100, 20
KINDS = ["linear", "cosine", "constant", "google", "poly"]


def factor(step, kind, max_steps=T, warmup=W):
    return learning_rate_factor(
        step, lr_scheduler_type=kind, max_steps=max_steps, warmup_steps=warmup
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # first update, last of warm-up, first after it, midway, last update, beyond
        ("linear", [0, 19 / 20, 1, 0.5, 1 / 80, 0]),
        ("cosine", [0, 19 / 20, 1, 0.5, (1 - math.cos(math.pi / 80)) / 2, 0]),
        ("constant", [0, 19 / 20, 1, 1, 1, 1]),
        ("google", [0, 19 / 20, 0.8, 0.4, 0.01, 0]),
        ("poly", [1 / 20, math.sqrt(0.8), math.sqrt(0.79), math.sqrt(0.39), 0, 0]),
    ],
)
def test_exact_values(kind, expected):
    steps = [0, 19, 20, 60, 99, 150]
    assert [factor(step, kind) for step in steps] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "first", "last"),
    [
        ("linear", 1, 0.01),
        ("cosine", 1, (1 + math.cos(math.pi * 0.99)) / 2),
        ("constant", 1, 1),
        ("google", 1, 0.01),
        ("poly", math.sqrt(0.99), 0),
    ],
)
def test_without_warmup(kind, first, last):
    assert factor(0, kind, warmup=0) == pytest.approx(first)
    assert factor(T - 1, kind, warmup=0) == pytest.approx(last)


@pytest.mark.parametrize("kind", KINDS)
def test_only_warmup(kind):
    assert factor(T - 2, kind, warmup=T) == pytest.approx(0.99 if kind == "poly" else 0.98)
    assert 0 <= factor(T, kind, warmup=T) <= 1


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("1-sqrt", [1, 1, 0.5, 1 - math.sqrt(0.81)]),
        ("linear", [1, 1, 0.75, 0.19]),
        ("cosine", [1, 1, (2 + math.sqrt(2)) / 4, (1 + math.cos(math.pi * 0.81)) / 2]),
    ],
)
def test_stable_then_decay(form, expected):
    """Stable up to and with the update at which the decay begins, in the form that is asked for."""
    shape = {"lr_scheduler_type": "wsd", "max_steps": 200, "warmup_steps": 20}
    found = [
        learning_rate_factor(step, **shape, decay_steps=100, decay_type=form)
        for step in (20, 100, 125, 181)
    ]
    assert found == pytest.approx(expected)
    assert learning_rate_factor(200, **shape, decay_steps=100, decay_type=form) == pytest.approx(0)
    assert learning_rate_factor(200, **shape, decay_steps=0) == 1


@pytest.mark.parametrize("form", ["linear", "cosine", "1-sqrt"])
def test_stable_then_decay_as_in_transformers(form):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = get_wsd_schedule(
        optimizer, W, 30, num_training_steps=T, decay_type=form, min_lr_ratio=0.1
    ).lr_lambdas[0]
    shape = {"lr_scheduler_type": "wsd", "max_steps": T, "warmup_steps": W, "decay_steps": 30}
    shape |= {"decay_type": form, "min_lr_ratio": 0.1, "warmup_min_ratio": 0.1}
    for step in range(T + 1):
        assert learning_rate_factor(step, **shape) == pytest.approx(reference(step)), step


@pytest.mark.parametrize(
    ("kind", "name"),
    [("linear", "linear"), ("cosine", "cosine"), ("constant", "constant_with_warmup")],
)
def test_equal_to_transformers(kind, name):
    def rates(build):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3.0)
        scheduler = build(optimizer)
        for _ in range(T):
            yield optimizer.param_groups[0]["lr"]
            optimizer.step()
            scheduler.step()

    ours = rates(
        lambda optimizer: build_scheduler(
            optimizer, lr_scheduler_type=kind, max_steps=T, warmup_steps=W
        )
    )
    theirs = rates(lambda optimizer: get_scheduler(name, optimizer, W, T))
    assert list(ours) == pytest.approx(list(theirs), abs=1e-12)


def test_record_recipe_peaks_below_the_nominal_rate():
    """NVIDIA phase 1: 7,038 steps of which 28.43 % warm up, then a drop to 0.846 of the peak."""
    steps = TrainingConfig(max_steps=7038, warmup_proportion=0.2843).num_warmup_steps
    rates = [factor(step, "poly", max_steps=7038, warmup=steps) for step in range(7038)]
    assert steps == 2001
    assert max(rates) == rates[steps - 2] == pytest.approx(1, abs=1e-3)
    assert rates[steps - 1] == pytest.approx(0.846, abs=1e-3)
    assert rates[0] == pytest.approx(1 / 2001) and rates[-1] == 0


def build(kind, peaks=(1.0, 0.3)):
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": peak} for peak in peaks]
    optimizer = torch.optim.SGD(groups)
    scheduler = build_scheduler(optimizer, lr_scheduler_type=kind, max_steps=T, warmup_steps=W)
    return optimizer, scheduler


def take(steps, optimizer, scheduler):
    """The learning rates of the next updates."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("done", [0, 7, W, T - 1])
def test_resumed_rates_are_identical(kind, done):
    straight, first, second = build(kind), build(kind), build(kind)
    expected = take(T, *straight)
    assert take(done, *first) == expected[:done]
    second[1].load_state_dict(first[1].state_dict())
    assert second[1].get_last_lr() == expected[done]
    assert take(T - done, *second) == expected[done:]


def test_resumed_rates_follow_the_recipe():
    first, second = build("linear"), build("linear", peaks=(2.0, 0.6))
    take(60, *first)
    second[1].load_state_dict(first[1].state_dict())
    assert take(1, *second) == [[1.0, 0.3]]  # half of the new peaks


def test_unknown_schedule():
    with pytest.raises(ConfigurationError, match="found 'polynomial', expected one of linear"):
        factor(0, "polynomial")
