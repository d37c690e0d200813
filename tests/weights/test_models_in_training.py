"""From a run to other programs' files and back into a run; what a run says to such files."""

import re
import shlex

import pytest
import torch
from data_util import exit_code
from safetensors.torch import load_file
from training_util import make_data, write_recipe

from ds_bert.commands.main import main as ds_bert
from ds_bert.commands.train import main as train

pytestmark = pytest.mark.usefixtures("one_process_group")


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """A run of two steps, whose checkpoint is of ZeRO 1."""
    folder = tmp_path_factory.mktemp("trained")
    section = {"max_steps": 2, "warmup_steps": 0}
    recipe = write_recipe(folder, data, section=section, zero_optimization={"stage": 1})
    assert exit_code(train, "--ds_config", recipe) == 0
    return folder / "run"


def convert(*line) -> int:
    return exit_code(ds_bert, "convert-model", *line)


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("part", ["", "checkpoints/step_2", "checkpoints/step_2/engine"])
def test_a_run_in_any_of_its_forms(run, tmp_path, part):
    assert convert("--model", run / part, "--output_dir", tmp_path / "out") == 0
    expected, found = weights(run / "checkpoints/step_2/hf"), weights(tmp_path / "out")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("kind", ["tf1", "nvidia", "engine"])
@pytest.mark.parametrize("flag", ["model", "init_from"])
def test_the_error_names_what_helps(run, data, tmp_path, monkeypatch, capsys, kind, flag):
    monkeypatch.chdir(tmp_path)
    if kind != "engine":
        assert convert("--model", run, "--output_dir", tmp_path / "other", "--to", kind) == 0
    place = {
        "tf1": tmp_path / "other/bert_model.ckpt",
        "nvidia": tmp_path / "other/ckpt_0.pt",
        "engine": run / "checkpoints/step_2/engine",
    }[kind]
    recipe = write_recipe(tmp_path, data, section={flag: str(place)})
    assert exit_code(train, "--ds_config", recipe, "--dry_run") == 2
    shown = capsys.readouterr().err
    command = re.search(r"make one: ds-bert (.*)", shown)
    assert command and "expected a Hugging Face folder" in shown
    assert exit_code(ds_bert, *shlex.split(command[1])) == 0
    recipe = write_recipe(tmp_path, data, section={flag: "models/converted"})
    assert exit_code(train, "--ds_config", recipe, "--dry_run") == 0
