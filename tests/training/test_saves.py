"""Saves beside training: the same files, steps that go on, one at a time, nothing lost."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
import time

import pytest
import torch
from data_util import exit_code
from distributed_util import run_ranks
from safetensors.torch import load_file
from training_util import make_data, write_recipe

from ds_bert import distributed
from ds_bert.checkpoint import saving
from ds_bert.checkpoint.manifest import read_manifest
from ds_bert.checkpoint.part import Part
from ds_bert.commands.train import main
from ds_bert.guards import standing
from ds_bert.training import run
from ds_bert.training.saves import Saves
from ds_bert.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_process_group")
SECTION = {"max_steps": 8, "warmup_steps": 0, "save_interval": 4, "log_interval": 8}
ADAMW = {"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}
CASES = {
    "fp32": {},
    "fp32, no ZeRO": {"zero_optimization": {"stage": 0}} | ADAMW,
    "bf16": {"bf16": {"enabled": True}},
    "fp16": {"fp16": {"enabled": True, "initial_scale_power": 20, "hysteresis": 1}} | ADAMW,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data, one_process_group):
    folder = tmp_path_factory.mktemp("whole")
    assert train(write_recipe(folder, data, section=SECTION), "--async_save", "false") == 0
    return folder / "run"


def train(recipe, *flags) -> int:
    return exit_code(main, "--ds_config", recipe, *map(str, flags))


def saved(run) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step_*"))


def assert_same_end(run, whole):
    end = "checkpoints/step_8/hf/model.safetensors"
    found, expected = load_file(run / end), load_file(whole / end)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


class SlowDisk:
    """A save is not written before training has come to a step; steps meanwhile are noted.

    Args:
        monkeypatch: pytest's.
        until: the step, or None: not before `is_free` is set.
        number: of the save, from 1.
    """

    def __init__(self, monkeypatch, until: int | None, number: int = 1):
        self.until, self.steps_meanwhile, self.is_free = until, [], threading.Event()
        self.writes, self.seen = 0, []
        write, finish = Part.write, Trainer._finish

        def slow_write(part):
            self.writes += 1
            if self.writes == number:
                self.is_free.wait(20)
            write(part)

        def noting_finish(trainer, *args):
            finish(trainer, *args)
            self.after_step(trainer)

        monkeypatch.setattr(Part, "write", slow_write)
        monkeypatch.setattr(Trainer, "_finish", noting_finish)

    def after_step(self, trainer):
        if trainer.saves._in_flight is not None and not self.is_free.is_set():
            self.steps_meanwhile.append(trainer.state.step)
            self.seen.append(saved(trainer.saves.folder.parent))
        if trainer.state.step == self.until:
            self.is_free.set()


@pytest.mark.parametrize("case", CASES)
def test_both_ways_make_the_same_files(tmp_path, data, case):
    recipe = write_recipe(tmp_path, data, section=SECTION, **CASES[case])
    found = []
    for beside in ("true", "false"):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert train(recipe, "--async_save", beside) == 0
        found.append([read_manifest(tmp_path / f"run/checkpoints/step_{n}") for n in (4, 8)])
    assert found[0] == found[1]
    assert all(manifest is not None and len(manifest["files"]) > 6 for manifest in found[0])


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path, data, whole, monkeypatch):
    """It appears when all is written, in a later step, and is what it would have been."""
    disk = SlowDisk(monkeypatch, until=6)
    assert train(write_recipe(tmp_path, data, section=SECTION)) == 0
    assert disk.steps_meanwhile == [5, 6] and disk.seen == [[], []]
    for step in (4, 8):
        manifests = [
            read_manifest(r / f"checkpoints/step_{step}") for r in (tmp_path / "run", whole)
        ]
        assert manifests[0] == manifests[1]


def test_a_save_that_becomes_due_waits_for_the_one_in_flight(
    tmp_path, data, whole, monkeypatch, capsys
):
    disk, wait = SlowDisk(monkeypatch, until=None), Saves.wait

    def freeing(saves, *args):
        phases.append(standing.NOW.phase)
        threading.Timer(0.1, disk.is_free.set).start()
        wait(saves, *args)
        phases.append(standing.NOW.phase)

    phases = []
    monkeypatch.setattr(Saves, "wait", freeing)
    recipe = write_recipe(tmp_path, data, section=SECTION | {"save_interval": 3})
    assert train(recipe, "--keep_checkpoints", 9) == 0
    out = capsys.readouterr().out
    assert "step 6: the save before is still being written; waiting" in out
    assert out.index("/step_3\n") < out.index("/step_6\n") < out.index("/step_8\n")
    assert phases[:2] == ["step", "save"], "what the watchdog is told"
    assert saved(tmp_path / "run") == ["step_3", "step_6", "step_8"]
    assert_same_end(tmp_path / "run", whole)


def ask_to_stop_after(monkeypatch, disk, step):
    """At the end of that step; what is in flight may end then."""
    requests, after_step = [], disk.after_step

    class Kept(run.StopRequest):
        def __init__(self, *args):
            super().__init__(*args)
            requests.append(self)

    def asking(trainer):
        if trainer.state.step == step:
            requests[-1].ask("a test")
            threading.Timer(0.1, disk.is_free.set).start()
        after_step(trainer)

    monkeypatch.setattr(run, "StopRequest", Kept)
    monkeypatch.setattr(disk, "after_step", asking)


@pytest.mark.parametrize(
    ("asked_after", "steps"), [(4, [4]), (5, [4, 6])], ids=["of that step", "of an older step"]
)
def test_a_stop_waits_for_what_is_in_flight(
    tmp_path, data, whole, monkeypatch, capsys, asked_after, steps
):
    recipe = write_recipe(tmp_path, data, section=SECTION)
    with monkeypatch.context() as patch:
        disk = SlowDisk(patch, until=None)
        ask_to_stop_after(patch, disk, asked_after)
        assert train(recipe) == 75
    assert saved(tmp_path / "run") == [f"step_{step}" for step in steps]
    assert disk.writes == len(steps), "no step is saved twice"
    assert f"stopped on request at step {steps[-1]}" in capsys.readouterr().out
    assert train(recipe) == 0
    assert_same_end(tmp_path / "run", whole)


def test_a_stop_tries_again_what_could_not_be_written(tmp_path, data, monkeypatch, capsys):
    disk, save = SlowDisk(monkeypatch, until=None), torch.save
    ask_to_stop_after(monkeypatch, disk, 4)

    def failing_once(*args):
        monkeypatch.setattr(torch, "save", save)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", failing_once)
    assert train(write_recipe(tmp_path, data, section=SECTION)) == 75
    out = capsys.readouterr().out
    assert "warning: step 4: no checkpoint could be written (rank 0 (" in out
    assert saved(tmp_path / "run") == ["step_4"]


def test_a_run_that_diverges_keeps_what_was_in_flight(tmp_path, data, monkeypatch):
    disk = SlowDisk(monkeypatch, until=5)
    shares = Trainer._shares.fget
    bad = property(lambda trainer: torch.nan if trainer.state.step == 4 else shares(trainer))
    monkeypatch.setattr(Trainer, "_shares", bad)
    recipe = write_recipe(tmp_path, data, section=SECTION | {"max_consecutive_skips": 1})
    assert train(recipe) == 5
    assert disk.steps_meanwhile == [5]
    assert saved(tmp_path / "run") == ["step_4"]
    found = json.loads((tmp_path / "run/diverged/step_5/diagnosis.json").read_text())
    assert found["checkpoint"].endswith("step_4")


def test_an_error_of_the_run_leaves_an_attempt(tmp_path, data, whole, monkeypatch):
    """Nothing appears once the folder is given up; the next start goes on from before."""
    recipe = write_recipe(tmp_path, data, section=SECTION)
    with monkeypatch.context() as patch:
        disk = SlowDisk(patch, until=None)

        def fail(trainer):
            raise RuntimeError("ours")

        patch.setattr(disk, "after_step", lambda t: fail(t) if t.state.step == 6 else None)
        with pytest.raises(RuntimeError, match="ours"):
            train(recipe)
        disk.is_free.set()
    assert saved(tmp_path / "run") == []
    assert len(list((tmp_path / "run/checkpoints").glob(".step_4.*.tmp"))) == 1
    assert train(recipe) == 0
    assert not list((tmp_path / "run/checkpoints").glob(".step_*"))
    assert_same_end(tmp_path / "run", whole)


def test_an_error_of_the_run_waits_for_a_commit(tmp_path, data, monkeypatch):
    """What has begun to appear is there, or is not, before another run may write there."""
    disk, write_manifest = SlowDisk(monkeypatch, until=5), saving.write_manifest
    is_seen = threading.Event()

    def slowly(*args):
        assert is_seen.wait(60)
        time.sleep(0.2)  # in which the run would end if it did not wait
        write_manifest(*args)

    def after_step(trainer):
        if trainer.state.step == 5:
            disk.is_free.set()
        if trainer.saves._in_flight is not None and trainer.saves._in_flight.is_committing:
            is_seen.set()
            raise RuntimeError("ours")

    monkeypatch.setattr(saving, "write_manifest", slowly)
    monkeypatch.setattr(disk, "after_step", after_step)
    recipe = write_recipe(tmp_path, data, section=SECTION | {"max_steps": 100})
    with pytest.raises(RuntimeError, match="ours"):
        train(recipe, "--save_interval", 4)
    assert saved(tmp_path / "run") == ["step_4"]


def one_slow_rank(recipe: str) -> list[tuple[int, int]]:
    """Train where rank 1 writes slowly: the steps in which a save ended, and of which it was."""
    distributed.shutdown = lambda: None
    over, go_on = [], Saves._go_on

    def noting(saves, *args):
        before = saves.saved_step
        go_on(saves, *args)
        if saves.saved_step != before:
            over.append((standing.NOW.step, saves.saved_step))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saves, "_go_on", noting)
        if distributed.rank() == 1:
            SlowDisk(patch, until=6)
        assert main(["--ds_config", recipe]) == 0
    assert "torch._inductor.compile_fx" not in sys.modules, "a second of each start, for nothing"
    return over


def test_ranks_go_on_together_when_the_slowest_has_written(tmp_path, data):
    recipe = write_recipe(tmp_path, data, section=SECTION | {"max_steps": 12})
    first, second = run_ranks(one_slow_rank, 2, str(recipe))
    assert first == second
    assert [step for _, step in first] == [4, 8, 12]
    assert first[0][0] >= 7


def killed(recipe: str) -> None:
    """In a process of its own: train until it is killed in step 5, while step 4 is written."""
    with pytest.MonkeyPatch.context() as patch:
        disk = SlowDisk(patch, until=None, number=2)

        def after_step(trainer):
            if trainer.state.step == 5:
                os.kill(os.getpid(), signal.SIGKILL)

        patch.setattr(disk, "after_step", after_step)
        main(["--ds_config", recipe])


def test_killed_while_a_checkpoint_is_written(tmp_path, data, whole):
    """The one before stays, and the same command ends as if nothing had happened."""
    recipe = write_recipe(tmp_path, data, section=SECTION | {"save_interval": 2})
    with pytest.raises(RuntimeError, match="0: -9"):
        run_ranks(killed, 1, str(recipe))
    assert saved(tmp_path / "run") == ["step_2"]
    assert len(list((tmp_path / "run/checkpoints").glob(".step_4.*.tmp"))) == 1
    assert train(recipe) == 0
    assert_same_end(tmp_path / "run", whole)
