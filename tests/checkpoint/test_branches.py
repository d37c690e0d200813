"""Going back to an older checkpoint: newer ones become a branch, and the next start knows."""

import shutil

import pytest
import torch
from data_util import exit_code
from safetensors.torch import load_file
from training_util import make_data, write_recipe

from ds_bert.commands.train import main

pytestmark = pytest.mark.usefixtures("one_process_group")
SECTION = {"save_interval": 2, "keep_checkpoints": 3, "log_interval": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("finished")
    assert train(write_recipe(folder, data, section=SECTION | {"max_steps": 10})) == 0
    return folder / "run"


def train(recipe, *flags) -> int:
    return exit_code(main, "--ds_config", recipe, *flags)


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def run(tmp_path, data, finished):
    """A run with checkpoints of the steps 6, 8 and 10, and its recipe."""
    shutil.copytree(finished, tmp_path / "run")
    write_recipe(tmp_path, data, section=SECTION | {"max_steps": 10})
    return tmp_path / "run"


def go_back(run, monkeypatch):
    """Resume from step 6, killed after the save of step 8."""
    from ds_bert.training.trainer import Trainer

    def end(trainer, *_, original=Trainer._save, **more):
        original(trainer, *_, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", end)
        flags = ("--resume", run / "checkpoints/step_6", "--keep_checkpoints", "2")
        flags += ("--async_save", "false")
        with pytest.raises(KeyboardInterrupt):
            main(["--ds_config", str(run.parent / "recipe.json"), *map(str, flags)])


def test_a_restart_after_going_back_goes_on_with_the_new_branch(run, monkeypatch, capsys, finished):
    """The old newer ones neither push the new ones out, nor are they taken again."""
    log = (run / "metrics.jsonl").read_bytes()
    go_back(run, monkeypatch)
    assert "the newer checkpoints are now in" in capsys.readouterr().out
    checkpoints = run / "checkpoints"
    assert names(checkpoints) == {"branch_1", "latest", "step_6", "step_8"}
    assert (checkpoints / "latest").read_text() == "step_8\n"
    assert names(checkpoints / "branch_1") == {"metrics.jsonl", "step_8", "step_10"}
    assert (checkpoints / "branch_1/metrics.jsonl").read_bytes() == log

    assert train(run.parent / "recipe.json") == 0
    out = capsys.readouterr().out
    assert f"resume from {checkpoints}/step_8" in out and "already finished" not in out
    assert names(checkpoints) == {"branch_1", "latest", "step_6", "step_8", "step_10"}
    assert names(checkpoints / "branch_1") == {"metrics.jsonl", "step_8", "step_10"}
    weights = [
        load_file(folder / "checkpoints/step_10/hf/model.safetensors") for folder in (run, finished)
    ]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_back_to_a_branch(run, monkeypatch, capsys):
    go_back(run, monkeypatch)
    checkpoints = run / "checkpoints"
    start = checkpoints / "branch_1/step_8"
    assert train(run.parent / "recipe.json", "--resume", start) == 0
    assert names(checkpoints) == {"branch_1", "branch_2", "latest", "step_10"}
    assert names(checkpoints / "branch_1") == {"metrics.jsonl", "step_8", "step_10"}
    assert names(checkpoints / "branch_2") == {"metrics.jsonl", "step_6", "step_8"}


def test_only_branches_are_no_fresh_start(run, capsys):
    """A crash between going back to a branch and the first save leaves nothing else."""
    checkpoints = run / "checkpoints"
    (checkpoints / "branch_1").mkdir()
    for name in ("step_6", "step_8", "step_10"):
        (checkpoints / name).rename(checkpoints / "branch_1" / name)
    assert train(run.parent / "recipe.json") == 4
    assert "all checkpoints are in branches; name one with --resume" in capsys.readouterr().err


def test_a_note_that_nobody_can_read(run, capsys):
    (run / "checkpoints/going_back.json").write_text("{")
    assert train(run.parent / "recipe.json") == 4
    assert "going_back.json: not readable" in capsys.readouterr().err


def test_a_dry_run_moves_nothing(run):
    before = sorted(run.rglob("*"))
    flags = ("--resume", run / "checkpoints/step_6", "--dry_run")
    assert train(run.parent / "recipe.json", *flags) == 0
    assert sorted(run.rglob("*")) == before
