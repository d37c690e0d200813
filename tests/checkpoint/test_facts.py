"""What has to be as in a checkpoint, and what need not be."""

from pathlib import Path

import pytest

from ds_bert.checkpoint import facts
from ds_bert.checkpoint.folder import Checkpoint
from ds_bert.errors import CheckpointError

SAVED = {
    "model": {"hidden_size": 32},
    "objective": "mlm",
    "optimizer": "Lamb",
    "precision": "fp32",
    "zero_stage": 1,
    "world_size": 2,
    "seed": 42,
}
CHECKPOINT = Checkpoint(Path("run/checkpoints/step_3"), {**SAVED, "step": 3})


@pytest.mark.parametrize("check", [facts.check_resume, facts.check_moments])
def test_the_same_settings_go_on(check):
    check(dict(SAVED), CHECKPOINT)


@pytest.mark.parametrize("check", [facts.check_resume, facts.check_moments])
def test_ranks_and_stage_may_change(check):
    check(SAVED | {"world_size": 3, "zero_stage": 0}, CHECKPOINT)


@pytest.mark.parametrize("name", [name for name in SAVED if name not in ("model", *facts.LAYOUT)])
def test_another_setting_is_refused(name):
    with pytest.raises(CheckpointError, match=f"{name} {SAVED[name]} instead of other; choose"):
        facts.check_resume(SAVED | {name: "other"}, CHECKPOINT)


def test_moments_depend_on_optimizer_and_precision_only():
    facts.check_moments(SAVED | {"seed": 7}, CHECKPOINT)
    changed = SAVED | {"optimizer": "AdamW", "precision": "bf16", "seed": 7}
    with pytest.raises(
        CheckpointError,
        match="optimizer Lamb instead of AdamW, precision fp32 instead of bf16; use the same",
    ):
        facts.check_moments(changed, CHECKPOINT)


@pytest.mark.parametrize("check", [facts.check_resume, facts.check_moments])
def test_another_model_size_is_refused(check):
    with pytest.raises(CheckpointError, match="hidden_size 32 instead of 64"):
        check(SAVED | {"model": {"hidden_size": 64}}, CHECKPOINT)


def test_a_fact_that_older_checkpoints_lack(monkeypatch):
    with pytest.raises(CheckpointError, match="news None instead of old"):
        facts.check_resume(SAVED | {"news": "old"}, CHECKPOINT)
    monkeypatch.setitem(facts.BEFORE, "news", "old")
    facts.check_resume(SAVED | {"news": "old"}, CHECKPOINT)
    with pytest.raises(CheckpointError, match="news old instead of new"):
        facts.check_resume(SAVED | {"news": "new"}, CHECKPOINT)


def test_checkpoints_from_before_there_were_objectives():
    before = Checkpoint(CHECKPOINT.folder, {k: v for k, v in SAVED.items() if k != "objective"})
    facts.check_resume(SAVED | {"objective": "mlm+nsp", "masks": "as the data set says"}, before)
    with pytest.raises(CheckpointError, match=r"objective mlm\+nsp instead of mlm"):
        facts.check_moments(SAVED, before)
    with pytest.raises(
        CheckpointError, match=r"masks as the data set says instead of masked_lm_prob 0\.3"
    ):
        changed = {"objective": "mlm+nsp", "masks": "masked_lm_prob 0.3"}
        facts.check_resume(SAVED | changed, before)
