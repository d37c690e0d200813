"""A run that is asked to stop in any phase ends with 75, and goes on to the same weights."""

import json
from types import SimpleNamespace

import pytest
import torch
from data_util import exit_code
from safetensors.torch import load_file
from training_util import make_data, write_recipe

from ds_bert.commands.train import main
from ds_bert.errors import ConfigurationError
from ds_bert.guards.stop import StopAgreed
from ds_bert.training import run, saves, trainer
from ds_bert.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_process_group")
SECTION = {"max_steps": 6, "log_interval": 3, "eval_interval": 2, "save_interval": 3}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("stopping")
    data = make_data(folder / "train", golden)
    return write_recipe(folder, data, section=SECTION)


@pytest.fixture(scope="module")
def whole(recipe, one_process_group):
    folder = recipe.parent / "whole"
    assert train(recipe, folder) == 0
    return folder


@pytest.fixture
def requests(monkeypatch):
    """Those of the runs of a test."""
    made = []

    class Kept(run.StopRequest):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(run, "StopRequest", Kept)
    return made


def train(recipe, folder, *flags) -> int:
    return exit_code(main, "--ds_config", recipe, "--output_dir", str(folder), *flags)


def saved(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("step_*"))


def rows(folder, kind):
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["step"] for row in found if row["kind"] == kind]


def assert_goes_on(recipe, folder, whole):
    assert train(recipe, folder) == 0
    assert_same_end(folder, whole)


def assert_same_end(folder, whole):
    end = "checkpoints/step_6/hf/model.safetensors"
    found, expected = load_file(folder / end), load_file(whole / end)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_in_a_validation(recipe, whole, tmp_path, requests, monkeypatch, capsys):
    original, cut = trainer.evaluate, []

    def evaluate(*args, **kwargs):
        requests[-1].ask("a test")
        try:
            return original(*args, **kwargs)
        except StopAgreed:
            cut.append(True)
            raise

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate", evaluate)
        assert train(recipe, tmp_path, "--eval_batch_size", "4") == 75
    assert cut and saved(tmp_path) == ["step_2"]
    assert "stopped on request at step 2 (a test); start again" in capsys.readouterr().out
    assert not (tmp_path / "metrics.jsonl").exists() or rows(tmp_path, "validation") == []
    assert_goes_on(recipe, tmp_path, whole)


@pytest.mark.parametrize("beside", ["true", "false"])
def test_in_a_save_which_is_then_the_last(recipe, whole, tmp_path, requests, monkeypatch, beside):
    original = saves.save_in_stages

    def save(*args):
        requests[-1].ask("a test")
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(saves, "save_in_stages", save)
        assert train(recipe, tmp_path, "--async_save", beside) == 75
    assert saved(tmp_path) == ["step_3"]
    assert_goes_on(recipe, tmp_path, whole)


@pytest.mark.parametrize("in_step", [3, 4], ids=["", "the step before is saved"])
def test_in_the_middle_of_a_slow_step(recipe, whole, tmp_path, requests, monkeypatch, in_step):
    original = Trainer._is_stopped_within

    def is_stopped_within(self, number, size):
        if self.state.step == in_step - 1 and number == 2:
            requests[-1].ask("a test")
        return original(self, number, size)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_SLOW", 0.0)
        patch.setattr(Trainer, "_is_stopped_within", is_stopped_within)
        assert train(recipe, tmp_path) == 75
    assert saved(tmp_path) == [f"step_{in_step - 1}"]
    assert_goes_on(recipe, tmp_path, whole)


def test_in_the_last_step_it_is_done(recipe, whole, tmp_path, requests, monkeypatch):
    original = Trainer._do_what_is_due

    def do_what_is_due(self, last):
        if last:
            requests[-1].ask("a test")
        original(self, last)

    monkeypatch.setattr(Trainer, "_do_what_is_due", do_what_is_due)
    assert train(recipe, tmp_path) == 0
    assert saved(tmp_path)[-1] == "step_6"
    assert rows(tmp_path, "validation")[-1] == 6


@pytest.mark.parametrize("late", [False, True])
def test_saves_by_the_clock(recipe, whole, tmp_path, monkeypatch, late):
    """Each step takes a minute; when outcomes are read late, a save comes one step later."""
    original = Trainer._step

    def step(self, *args):
        self.settles_late = late
        clock.now += 60
        original(self, *args)

    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(trainer, "time", clock)
    monkeypatch.setattr(saves, "time", clock)
    monkeypatch.setattr(trainer, "_SLOW", 1e9)
    monkeypatch.setattr(Trainer, "_step", step)
    flags = ("--save_minutes", "1.5", "--save_interval", "0", "--keep_checkpoints", "6")
    assert train(recipe, tmp_path, *flags, "--eval_interval", "0", "--log_interval", "6") == 0
    assert saved(tmp_path) == (["step_3", "step_6"] if late else ["step_2", "step_4", "step_6"])
    assert_same_end(tmp_path, whole)


def test_max_time(recipe, tmp_path, requests, monkeypatch):
    monkeypatch.setattr(Trainer, "_log", lambda _: requests[-1]._look())
    monkeypatch.setattr("ds_bert.guards.stop._age", lambda: 3 * 3600.0)
    monkeypatch.setattr("ds_bert.guards.stop.LOOK", 3600.0)
    assert train(recipe, tmp_path, "--max_time", "3:00:00") == 75
    assert saved(tmp_path) == ["step_3"] or saved(tmp_path) == ["step_4"]


@pytest.mark.parametrize("wrong", ["soon", "-1", "1:30", "1:60:00", "1.5.0"])
def test_a_time_that_is_none(recipe, tmp_path, wrong):
    with pytest.raises(ConfigurationError, match=r"max_time: found .+, expected"):
        main(["--ds_config", str(recipe), f"--max_time={wrong}"])
