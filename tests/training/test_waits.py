"""Host and GPU do not wait for each other: what a step asks of the device is counted.

On a CPU nothing waits, but who asks for a value can be seen; a GPU refuses the question.
"""

import json
import shutil
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from data_util import exit_code
from deepspeed.accelerator import get_accelerator
from gpu_marks import NEEDS_GPU
from operations import Operations
from training_util import make_data, write_recipe

from ds_bert.commands.train import main
from ds_bert.training import run
from ds_bert.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_process_group")
MICRO_BATCHES = 4
BF16 = {"bf16": {"enabled": True}, "train_batch_size": 32, "train_micro_batch_size_per_gpu": 8}
ADAMW = {"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}
# Values that a GPU has no part in.
ON_THE_HOST = {
    ("dropout.py", "dropout"),  # random state of the CPU, for tensors there
    ("lamb.py", "_is_set"),  # found_inf; the fused kernel reads it on the device
    ("lamb.py", "_update"),  # the number of steps
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


def train(recipe, *flags) -> int:
    return exit_code(main, "--ds_config", recipe, *map(str, flags))


@pytest.fixture
def late(monkeypatch):
    """Runs settle as on a GPU; trainers are told to `functions` at the start of each step."""
    functions, step = [], Trainer._step

    def late_step(trainer, *arguments):
        trainer.settles_late = True
        for function in functions:
            function(trainer)
        step(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_step", late_step)
    return functions


def asked(recipe, monkeypatch):
    """What the fourth step asks for: reads by who reads, and synchronizations of the device."""
    step, waits, counted = Trainer._step, Counter(), Operations()

    def counting(trainer, *arguments):
        if trainer.state.step != 3:
            step(trainer, *arguments)
            return
        with monkeypatch.context() as patch, counted:
            patch.setattr(get_accelerator(), "synchronize", lambda *_: waits.update(["waits"]))
            step(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", counting)
        assert train(recipe) == 0
    reads = {site: number for site, number in counted.reads.items() if site not in ON_THE_HOST}
    return waits["waits"], reads


@pytest.mark.parametrize(
    "other", [{}, ADAMW, {"train_batch_size": 8}], ids=["Lamb", "AdamW", "one micro-batch"]
)
def test_a_step_waits_for_nothing(tmp_path, data, late, monkeypatch, other):
    section = {"max_steps": 6, "log_interval": 10, "check_interval": 0}
    recipe = write_recipe(tmp_path, data, section=section, **BF16 | other)
    assert asked(recipe, monkeypatch) == (0, {})


def test_with_deepspeeds_own_ways_the_same_count_finds_them(tmp_path, data, late, monkeypatch):
    section = {"max_steps": 6, "log_interval": 10, "check_interval": 0}
    timers = {"timers": {"throughput": {"enabled": True}}}
    recipe = write_recipe(tmp_path, data, section=section, **BF16, **timers)
    monkeypatch.setattr(run, "waitless", nullcontext)
    waits, reads = asked(recipe, monkeypatch)
    assert waits == 2 * MICRO_BATCHES
    assert {function for _, function in reads} == {
        "is_invalid_grad_norm",
        "clip_tensors_by_global_norm",
    }


@pytest.mark.parametrize("precision", [pytest.param(BF16, marks=NEEDS_GPU)])
def test_a_gpu_sees_no_question(tmp_path, data, late, precision):
    def forbid(trainer):
        torch.cuda.set_sync_debug_mode("error" if trainer.state.step >= 2 else "default")

    late.append(forbid)
    section = {"max_steps": 6, "log_interval": 10, "check_interval": 0}
    try:
        recipe = write_recipe(tmp_path, data, section=section, **precision)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "_log", lambda *_: torch.cuda.set_sync_debug_mode("default"))
            assert train(recipe) == 0
    finally:
        torch.cuda.set_sync_debug_mode("default")


def rows(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("second", "memory", "mfu", "flops", "wait", "time", "started")
    return [{k: v for k, v in row.items() if not any(t in k for t in timed)} for row in found]


def checkpoint(folder: Path, step: int) -> dict:
    """Everything in the files of a checkpoint that is not about where it lies."""
    found = {}
    for path in sorted((folder / f"checkpoints/step_{step}").rglob("*.pt")):
        found[path.name] = torch.load(path, weights_only=False)
    return found


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"ds_config"}:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        for pair in zip(one, other, strict=True):
            assert_same(*pair)


@pytest.mark.parametrize("optimizer", [{}, ADAMW], ids=["Lamb", "AdamW"])
@pytest.mark.parametrize("skips", [False, True], ids=["", "a step is skipped"])
def test_late_is_as_early(tmp_path, data, monkeypatch, late, optimizer, skips):
    section = {"max_steps": 9, "log_interval": 4, "save_interval": 6, "eval_interval": 5}
    recipe = write_recipe(tmp_path, data, section=section, **BF16, **optimizer)
    if skips:
        monkeypatch.setattr(Trainer, "_shares", property(spoil_step_3))
    assert train(recipe, "--output_dir", tmp_path / "late") == 0
    late.append(lambda trainer: setattr(trainer, "settles_late", False))
    assert train(recipe, "--output_dir", tmp_path / "early") == 0
    for step in (6, 9):
        assert_same(checkpoint(tmp_path / "late", step), checkpoint(tmp_path / "early", step))
    assert rows(tmp_path / "late") == rows(tmp_path / "early")
    assert (rows(tmp_path / "late")[-2]["skipped_steps"] > 0) == skips


def spoil_step_3(trainer):
    return torch.nan if trainer.state.step == 2 else trainer.plan.batch.accumulation_steps


@pytest.mark.parametrize("asked_in", [2, 3], ids=["the next step is given up", "it is just due"])
def test_a_stop_in_the_middle_goes_on_to_the_same_end(tmp_path, data, late, asked_in):
    section = {"max_steps": 6, "log_interval": 3, "check_interval": 0}
    recipe = write_recipe(tmp_path, data, section=section, **BF16)
    assert train(recipe, "--output_dir", tmp_path / "whole") == 0

    def stop(trainer):
        if trainer.state.step == asked_in - 1:
            trainer.stop.ask("a test")

    late.append(stop)
    assert train(recipe) == 75
    names = [path.name for path in (tmp_path / "run/checkpoints").glob("step_*")]
    assert names == [f"step_{asked_in}"]
    late.clear()
    assert train(recipe) == 0
    assert_same(checkpoint(tmp_path / "run", 6), checkpoint(tmp_path / "whole", 6))
    shutil.rmtree(tmp_path / "run")


def test_too_many_skips_are_examined_with_their_own_batches(tmp_path, data, late, monkeypatch):
    monkeypatch.setattr(Trainer, "_shares", property(lambda _: torch.nan))
    section = {"max_steps": 9, "log_interval": 9, "max_consecutive_skips": 3}
    recipe = write_recipe(tmp_path, data, section=section, **BF16)
    assert train(recipe) == 5
    found = json.loads((tmp_path / "run/diverged/step_3/diagnosis.json").read_text())
    assert (found["first_step"], found["last_step"], found["samples"]) == (1, 3, [0, 96])
    assert len(found["micro_batches"]) == MICRO_BATCHES
