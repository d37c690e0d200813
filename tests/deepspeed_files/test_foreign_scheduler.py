"""Scheduler sections of DeepSpeed files against DeepSpeed's own classes, step by step."""

import pytest
import torch
from deepspeed.runtime import lr_schedules

from ds_bert.config import TrainingConfig
from ds_bert.deepspeed_files.translate import translate
from ds_bert.errors import ConfigurationError
from ds_bert.optim.schedules import Shape

T, W, PEAK = 120, 20, 3e-3


def recipe_with(kind, params):
    optimizer = {"type": "AdamW", "params": {"lr": PEAK}}
    return {
        "train_batch_size": 8,
        "optimizer": optimizer,
        "scheduler": {"type": kind, "params": params},
    }


def ours(recipe, section):
    recipe, section, notes = translate(recipe, section, 1)
    assert "scheduler" not in recipe and len(notes) == 1
    config = TrainingConfig(**section)
    peak = recipe["optimizer"]["params"]["lr"]
    return [peak * Shape(**config.schedule).factor(step) for step in range(config.max_steps)]


def theirs(kind, params):
    """DeepSpeed's rates by its own count, which starts at 0 with the second update."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    scheduler = getattr(lr_schedules, kind)(optimizer, **params)
    found = []
    for _ in range(T):
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("form", [{}, {"warmup_type": "log"}, {"warmup_type": "linear"}])
@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("WarmupLR", {}),
        ("WarmupLR", {"warmup_min_lr": 1e-4, "warmup_max_lr": 2e-3}),
        ("WarmupDecayLR", {"total_num_steps": T}),
        ("WarmupDecayLR", {"total_num_steps": T, "warmup_min_lr": 1e-4, "warmup_max_lr": 2e-3}),
        ("WarmupCosineLR", {"total_num_steps": T, "warmup_min_ratio": 0.1, "cos_min_ratio": 0.05}),
        ("WarmupCosineLR", {"total_num_steps": T}),
    ],
)
def test_same_rates_as_deepspeed(kind, params, form):
    params = {"warmup_num_steps": W, **params, **form}
    section = {} if "total_num_steps" in params else {"max_steps": T}
    found, expected = ours(recipe_with(kind, params), section), theirs(kind, params)
    if kind == "WarmupCosineLR":  # its decay is one step ahead of its own count
        assert found[:W] == pytest.approx(expected[:W], abs=1e-12)
        assert found[W + 1 :] == pytest.approx(expected[W:-1], abs=1e-12)
    else:
        assert found == pytest.approx(expected, abs=1e-12)


def test_the_peak_is_the_schedulers_as_in_deepspeed():
    recipe = recipe_with("WarmupLR", {"warmup_max_lr": 1e-3, "warmup_num_steps": 5})
    del recipe["optimizer"]["params"]["lr"]
    recipe, _, notes = translate(recipe, {}, 1)
    assert recipe["optimizer"]["params"] == {"lr": 1e-3}
    assert "the peak rate is 0.001" in notes[0]


@pytest.mark.parametrize(
    ("kind", "params", "section", "message"),
    [
        ("OneCycle", {}, {}, "one triangle of the rate write lr_scheduler_type linear"),
        ("LRRangeTest", {}, {}, "is not offered: raises the rate"),
        ("WarmupLr", {}, {}, 'did you mean "WarmupLR"'),
        ("WarmupLR", {"warmup_steps": 3}, {}, 'unknown key "warmup_steps"'),
        ("WarmupLR", {"warmup_num_steps": 0}, {}, "warmup_num_steps: found 0, expected a whole"),
        ("WarmupLR", {"warmup_type": "exp"}, {}, "expected log or linear"),
        ("WarmupLR", {"warmup_min_lr": 1}, {}, "found 1, expected at most the peak rate"),
        ("WarmupLR", {"warmup_min_lr": [0, 0]}, {}, "warmup_min_lr: found"),
        ("WarmupLR", {"last_batch_iteration": 7}, {}, "expected -1: ds_bert resumes"),
        ("WarmupLR", {}, {"warmup_steps": 3}, "warmup_steps .* are both given; keep one"),
        ("WarmupDecayLR", {"total_num_steps": 9}, {"max_steps": 8}, "9 and max_steps 8 differ"),
    ],
)
def test_what_is_answered(kind, params, section, message):
    with pytest.raises(ConfigurationError, match=message):
        translate(recipe_with(kind, params), section, 1)
