"""The disk as a crash leaves it, before every file operation of saves and of going back."""

import shutil

import pytest
import torch
from crash_trace import sample, snapshots
from data_util import exit_code
from safetensors.torch import load_file
from training_util import make_data, write_recipe

from ds_bert.checkpoint.branches import set_aside_newer
from ds_bert.checkpoint.folder import CHECKPOINTS, step_of
from ds_bert.commands.train import main

pytestmark = pytest.mark.usefixtures("one_process_group")
SECTION = {"max_steps": 6, "save_interval": 2, "keep_checkpoints": 2, "log_interval": 6}
END = f"{CHECKPOINTS}/step_6/hf/model.safetensors"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("crash")
    data = make_data(folder / "train", golden)
    return write_recipe(folder, data, section=SECTION)


def train(recipe, *flags) -> int:
    return exit_code(main, "--ds_config", recipe, *flags)


def assert_ends_alike(run, expected):
    weights = load_file(run / END)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("beside", "kept", "most"),
    [("true", None, 12), ("true", 0.5, 6), ("false", None, 6)],
    ids=["killed", "power cut", "killed, training stands still"],
)
def test_a_run_goes_on_after_a_crash_at_any_file_operation(recipe, tmp_path, beside, kept, most):
    """Three saves, the last of which prunes; beside training they come from a thread."""
    run = recipe.parent / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    into = tmp_path / "copies"
    taken = snapshots(run, lambda: train(recipe, "--async_save", beside), into, kept)
    expected = load_file(run / END)
    assert len(taken) > 80
    for snapshot in sample(taken, most):
        snapshot.restore(run)
        done = [step_of(path) for path in (run / CHECKPOINTS).glob("step_*")]
        assert train(recipe) == 0, snapshot.operation
        assert_ends_alike(run, expected)
        names = {path.name for path in (run / CHECKPOINTS).iterdir()}
        assert names == {"latest", "step_4", "step_6"}, (snapshot.operation, done)


def test_going_back_is_made_good_after_a_crash_at_any_file_operation(recipe, tmp_path):
    run = recipe.parent / "run"
    shutil.rmtree(run, ignore_errors=True)
    assert train(recipe, "--keep_checkpoints", "3") == 0
    expected = load_file(run / END)
    checkpoints = run / CHECKPOINTS
    taken = snapshots(run, lambda: set_aside_newer(checkpoints, 2), tmp_path / "copies")
    asked_for = [s for s in taken if (s.folder / CHECKPOINTS / "going_back.json").exists()]
    assert len(asked_for) >= 5
    for snapshot in asked_for:
        snapshot.restore(run)
        assert train(recipe) == 0, snapshot.operation
        names = {path.name for path in (checkpoints / "branch_1").iterdir()}
        assert names == {"step_4", "step_6", "metrics.jsonl"}, snapshot.operation
        names = {path.name for path in checkpoints.iterdir()}
        assert names == {"branch_1", "latest", "step_4", "step_6"}, snapshot.operation
        assert_ends_alike(run, expected)
