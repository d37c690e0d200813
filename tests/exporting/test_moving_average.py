"""The moving average of a run's weights as a model: resumed, evaluated and exported."""

import json
import shutil

import pytest
import torch
from data_util import exit_code
from export_util import data_of
from safetensors.torch import load_file
from training_util import write_recipe

from ds_bert.checkpoint.manifest import read_manifest
from ds_bert.commands import evaluate, export_hf
from ds_bert.commands.train import main
from ds_bert.optim.average import AVERAGE

pytestmark = pytest.mark.usefixtures("one_process_group")
DECAY = 0.75
ADAMW = {"type": "AdamW", "params": {"lr": 0.01}}
STAGES = {"stage 1": 1, "stage 0": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return data_of(tmp_path_factory.mktemp("data"), golden)


@pytest.fixture(scope="module")
def train(tmp_path_factory, data):
    """Makes a run of 4 steps, a checkpoint after each, and returns its folder."""

    def call(stage=1, **section):
        folder = tmp_path_factory.mktemp("run")
        section = {"save_interval": 1, "keep_every": 1, "validation_data": "", **section}
        engine = {"zero_optimization": {"stage": stage}, "optimizer": ADAMW}
        recipe = write_recipe(folder, data, section=section, **engine)
        assert exit_code(main, "--ds_config", recipe) == 0
        return folder / "run"

    return call


@pytest.fixture(scope="module")
def runs(train):
    return {name: train(stage, ema_decay=DECAY) for name, stage in STAGES.items()}


@pytest.fixture(scope="module")
def plain(train):
    return train()


def weights(run, step):
    return load_file(run / f"checkpoints/step_{step}/hf/model.safetensors")


def export(run, folder, *more):
    line = ["--checkpoint", run, "--output_dir", folder, *more]
    return exit_code(export_hf.main, *line)


@pytest.mark.parametrize("name", STAGES)
def test_the_average_is_exported_and_evaluated(runs, name, data, tmp_path, capsys):
    run, expected = runs[name], weights(runs[name], 1)
    for step in (2, 3, 4):
        now = weights(run, step)
        expected = {n: DECAY * expected[n] + (1 - DECAY) * now[n] for n in now}
    assert export(run, tmp_path / "model", "--weights", "ema") == 0
    shown = capsys.readouterr().out
    assert "step_4/hf, moving average of the weights" in shown and "compute what ds_bert" in shown
    found = load_file(tmp_path / "model/model.safetensors")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-7)
    assert "moving average over the steps, decay 0.75" in (tmp_path / "model/README.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    losses = []
    for path, more in ((run, ["--weights", "ema"]), (tmp_path / "model", []), (run, [])):
        line = ["--checkpoint", path, "--data", data, "--max_seq_length", 32, *more]
        assert exit_code(evaluate.main, *line, "--max_eval_sequences", 8) == 0
        record = json.loads(capsys.readouterr().out)
        losses.append((record["mlm_loss"], record["nsp_loss"]))
        assert record.get("weights") == ("ema" if more else None)
    assert losses[0] == losses[1] != losses[2]


def test_without_one_nothing_is_written(plain, data, tmp_path, capsys):
    folder = plain / "checkpoints/step_4/hf"
    line = ["--data", data, "--max_seq_length", 32, "--weights", "ema", "--checkpoint"]
    for path, message in (
        (plain, "found no moving average of the weights, expected a checkpoint of a run with"),
        (folder, "found a model, expected a run or a checkpoint"),
    ):
        assert exit_code(evaluate.main, *line, path) == 4
        assert message in capsys.readouterr().err
        assert export(path, tmp_path / "model", "--weights", "ema") == 4
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def state_of(run, step):
    path = run / f"checkpoints/step_{step}/engine/zero_pp_rank_0_mp_rank_00_optim_states.pt"
    return torch.load(path, weights_only=False)["optimizer_state_dict"]


def moments_of(state):
    return state["base_optimizer_state"]["state"]


def test_training_is_the_same_with_it_and_nothing_is_left_without(runs, plain):
    with_it, without = runs["stage 1"], plain
    for step in (1, 4):
        one, other = weights(with_it, step), weights(without, step)
        assert all(torch.equal(one[name], other[name]) for name in other)
    one, other = (moments_of(state_of(run, 4)) for run in (with_it, without))
    for index, values in other.items():
        assert values.keys() == one[index].keys() - {AVERAGE} != one[index].keys()
        assert all(torch.equal(value, one[index][name]) for name, value in values.items())
    facts = [read_manifest(run / "checkpoints/step_4") for run in (with_it, without)]
    assert facts[0].keys() - facts[1].keys() == {"ema_decay"}


@pytest.mark.parametrize(("decay", "is_kept"), [(DECAY, True), (0.0, False)])
def test_resumed_it_goes_on_to_the_bit_and_switched_off_it_is_gone(
    runs, tmp_path, decay, is_kept, capsys
):
    shutil.copytree(runs["stage 1"].parent, tmp_path / "copy")
    run = tmp_path / "copy/run"
    for step in (3, 4):
        shutil.rmtree(run / f"checkpoints/step_{step}")
    flags = ["--output_dir", run, "--ema_decay", decay]
    assert exit_code(main, "--ds_config", tmp_path / "copy/recipe.json", *flags) == 0
    assert ("average: moving average of the weights" in capsys.readouterr().out) == is_kept
    found, expected = (moments_of(state_of(each, 4)) for each in (run, runs["stage 1"]))
    for index, values in expected.items():
        names = values.keys() if is_kept else values.keys() - {AVERAGE}
        assert found[index].keys() == names
        assert all(torch.equal(found[index][name], values[name]) for name in names)


def test_switched_on_later_it_begins_there(plain, tmp_path, capsys):
    shutil.copytree(plain.parent, tmp_path / "copy")
    run = tmp_path / "copy/run"
    shutil.rmtree(run / "checkpoints/step_4")
    flags = ["--output_dir", run, "--ema_decay", DECAY]
    assert exit_code(main, "--ds_config", tmp_path / "copy/recipe.json", *flags) == 0
    assert "decay 0.75 (about 4 steps), begun here" in capsys.readouterr().out
    state = state_of(run, 4)
    masters = state["single_partition_of_fp32_groups"]
    for group, values in enumerate(moments_of(state).values()):
        assert torch.equal(values[AVERAGE], masters[group])
