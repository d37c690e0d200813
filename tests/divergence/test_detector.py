"""The rules: what ends a run as diverged, and what does not."""

import json
import math

import pytest
import torch

from ds_bert import files
from ds_bert.config import TrainingConfig
from ds_bert.divergence.detector import (
    INTERVALS,
    Divergence,
    DivergenceDetector,
    Launched,
    SpikeRule,
)
from ds_bert.divergence.diagnosis import bad_steps
from ds_bert.errors import ConfigurationError


def detector(**fields):
    return DivergenceDetector(TrainingConfig(**fields))


def launched(loss, step=1):
    found = Launched(step, 8 * (step - 1), learning_rate=0.1, gradient_norm=torch.tensor(2.0))
    for _ in range(2):
        found.before_micro_batch()
        found.after_micro_batch(torch.tensor(loss / 2))
    return found


def take(detector, loss, step=1, skips=0):
    figures = launched(loss, step).figures(skipped=skips > 0)
    return detector.after_step(figures, skips, not math.isfinite(loss))


def test_figures_of_the_last_steps_are_kept():
    found = detector(log_interval=1)
    for step in range(1, 151):
        take(found, float(step), step)
    figures = found.figures()
    assert [f["step"] for f in figures] == list(range(51, 151))
    assert figures[-1]["loss"] == 150.0 and figures[-1]["gradient_norm"] == 2.0


def test_what_it_takes_to_examine_a_step_is_kept():
    found = launched(3.0)
    assert len(found.random_states) == 2 and "cpu" in found.random_states[0]
    assert [float(loss) for loss in found.losses] == [1.5, 1.5] and float(found.loss) == 3.0


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_noticed_at_the_step(loss):
    found = detector()
    assert take(found, 1.0) is None
    assert take(found, loss, 2).reason == "the loss is not a number"
    assert take(found, loss, 3, skips=1) is None, "a skipped step has done no harm"


def test_losses_of_skipped_steps_need_not_be_numbers():
    found = detector()
    take(found, 1.0)
    assert found.at_log(float("nan"), skips=1) is None


def test_skips_in_a_row():
    found = detector(max_consecutive_skips=2)
    assert take(found, 1.0, 1, skips=1) is None
    assert take(found, 1.0, 2, skips=2).reason == "2 steps in a row had non-finite gradients"


def judged(limit, losses):
    rule = SpikeRule(limit)
    return [rule.judge(loss, 10 * number) for number, loss in enumerate(losses, 1)]


def test_a_spike_that_stays():
    *before, found = judged(4.0, [11.0, 3.0, 2.0, *[6.1] * INTERVALS])
    assert not any(before)
    assert found.num_steps == 10 * INTERVALS
    assert "max_loss_spike 4 above the lowest one, 2.00" in found.reason


@pytest.mark.parametrize(
    "losses",
    [
        [2.0, *[9.0] * (INTERVALS - 1), 2.5, *[9.0] * (INTERVALS - 1)],  # it ends by itself
        [11.2, 10.4, 11.9, 10.3] * 5,  # the start of a run
        [2.0, *[5.9] * 50],
    ],
)
def test_no_spike(losses):
    assert not any(judged(4.0, losses))


def test_the_rule_can_be_switched_off():
    assert not any(judged(0.0, [2.0, *[100.0] * 50]))


def figures(losses, skipped=()):
    return [
        {"step": n, "first_sample": 8 * (n - 1), "loss": loss, "skipped": n in skipped}
        for n, loss in enumerate(losses, 1)
    ]


NAN = float("nan")


@pytest.mark.parametrize(
    ("num_steps", "losses", "skipped", "first"),
    [
        (2, [1.0, 1.0, 1.0], (), 2),
        (9, [1.0, 1.0, 1.0], (), 1),  # more than is known
        (None, [1.0, NAN, NAN], (), 2),
        (None, [NAN, 1.0, NAN], (1,), 3),
        (None, [1.0, 1.0, 1.0], (), 3),
    ],
)
def test_which_steps_are_bad(num_steps, losses, skipped, first):
    found = bad_steps(Divergence("", num_steps), figures(losses, skipped), 8)
    assert found == {"first_step": first, "last_step": 3, "samples": [8 * (first - 1), 24]}


def test_json_has_no_numbers_that_are_not_finite():
    value = {"a": [float("inf"), 1.5, {"b": NAN}], "c": (-float("inf"), 2)}
    text = files.as_json(value)
    assert json.loads(text) == {"a": [None, 1.5, {"b": None}], "c": [None, 2]}
    assert "Infinity" not in text and "NaN" not in text


def test_settings():
    with pytest.raises(ConfigurationError, match="max_loss_spike: found -1"):
        TrainingConfig(max_loss_spike=-1)
    with pytest.raises(ConfigurationError, match=r"resume is runs/x; leave one of them out"):
        TrainingConfig(rollback=True, resume="runs/x")
