"""What is not saved, what is not loaded, and where a run does not begin to write."""

import os
import pickle
import shutil
from collections import namedtuple

import pytest
import torch
from data_util import exit_code
from safetensors.torch import load_file
from training_util import make_data, write_recipe

from ds_bert import files
from ds_bert.checkpoint.manifest import read_manifest, write_manifest
from ds_bert.commands.train import main

pytestmark = pytest.mark.usefixtures("one_process_group")
SECTION = {"max_steps": 4, "warmup_steps": 0, "save_interval": 2, "keep_checkpoints": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A run of four steps with its recipe, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    assert train(write_recipe(folder, data, section=SECTION)) == 0
    return folder


def train(recipe, *flags) -> int:
    return exit_code(main, "--ds_config", recipe, *flags)


def steps(run):
    return sorted(path.name for path in (run / "checkpoints").glob("step_*"))


@pytest.fixture
def copy(finished, tmp_path, data):
    """The finished run, and a recipe that goes on with it."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return write_recipe(tmp_path, data, section=SECTION | {"max_steps": 12, "log_interval": 20})


@pytest.mark.parametrize(
    ("stage", "noticed"),
    [
        (0, "46 weights are not finite"),
        (1, "10 steps in a row had non-finite gradients"),
    ],
)
def test_weights_that_are_not_finite_push_no_good_ones_out(tmp_path, data, capsys, stage, noticed):
    """Logged too rarely to be noticed in the loss; saved too often to keep what is good."""
    optimizer = {"type": "AdamW", "params": {"lr": 1e-3}}
    common = {"optimizer": optimizer, "zero_optimization": {"stage": stage}}
    assert train(write_recipe(tmp_path, data, section=SECTION, **common)) == 0
    assert steps(tmp_path / "run") == ["step_2", "step_4"]
    section = SECTION | {"max_steps": 20, "log_interval": 20, "lr_scheduler_type": "constant"}
    optimizer["params"]["lr"] = 1e38
    assert train(write_recipe(tmp_path, data, section=section, **common)) == 5
    assert noticed in capsys.readouterr().err
    kept = steps(tmp_path / "run")
    assert "step_4" in kept
    for name in kept:
        weights = load_file(tmp_path / f"run/checkpoints/{name}/hf/model.safetensors")
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["random_state_rank_0.pt", "engine/mp_rank_00_model_states.pt"])
@pytest.mark.parametrize("variable", ["", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_a_malicious_file_is_an_error_of_the_checkpoint(
    copy, tmp_path, capsys, monkeypatch, name, variable
):
    """Well sealed, so that only its content gives it away; the environment changes nothing."""
    if variable:
        monkeypatch.setenv(variable, "1")
    marker, folder = tmp_path / "it_ran", tmp_path / "run/checkpoints/step_4"
    (folder / name).write_bytes(pickle.dumps(Malicious(marker)))
    facts = read_manifest(folder)
    assert facts is not None
    write_manifest(folder, facts["files"] | {name: files.seal_file(folder / name)}, facts)
    assert train(copy) == 4
    message = capsys.readouterr().err
    assert "objects that ds_bert never writes" in message and "Traceback" not in message
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["file", "below a file", "dangling link", "checkpoints"])
def test_an_output_that_is_no_folder(tmp_path, data, kind, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").write_text("")
    places = {"file": "file", "below a file": "file/run", "dangling link": "link"}
    place = places.get(kind, "run")
    recipe = write_recipe(tmp_path, data, section={"output_dir": str(tmp_path / place)})
    for flags in ((), ("--dry_run",)):
        assert train(recipe, *flags) == 2
        assert "is no folder, expected a folder" in capsys.readouterr().err


def test_checkpoints_that_are_there_take_no_further_room(copy, tmp_path, monkeypatch, capsys):
    """Room for one more is enough where two of two are kept already."""
    usage = namedtuple("usage", "free")
    size = sum(p.stat().st_size for p in (tmp_path / "run/checkpoints/step_4").rglob("*"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2 * size))
    assert train(copy, "--dry_run") == 0
    shutil.rmtree(tmp_path / "run")
    assert train(copy, "--dry_run") == 2
    assert "3 more checkpoints: about" in capsys.readouterr().err
