"""fp8 in real runs: scales are those of all ranks, saved, gone on with, and replayed."""

import json
import math
import shutil
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from data_util import exit_code
from distributed_util import run_ranks
from training_util import MODEL, make_data, write_recipe

from ds_bert import distributed
from ds_bert.commands.train import main
from ds_bert.divergence.detector import Divergence, DivergenceDetector
from ds_bert.divergence.replay import replay
from ds_bert.fp8 import weights
from ds_bert.fp8.scales import Scales
from ds_bert.guards.stop import StopRequest
from ds_bert.training import run
from ds_bert.training.plan import Plan
from ds_bert.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_process_group")
BF16 = {"bf16": {"enabled": True}}
FILE = "engine/mp_rank_00_model_states.pt"
STEPS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


def make_recipe(folder, data, section=None, **engine):
    folder.mkdir(parents=True, exist_ok=True)
    usual = {"max_steps": STEPS, "warmup_steps": 0, "save_interval": 1, "keep_checkpoints": STEPS}
    section = usual | {"fp8": "delayed", "validation_data": ""} | (section or {})
    path = write_recipe(folder, data, section=section, **BF16, **engine)
    (folder / "model.json").write_text(json.dumps(MODEL | {"num_hidden_layers": 3}))
    return path


def train(recipe, *flags):
    return exit_code(main, "--ds_config", recipe, *map(str, flags))


def content(checkpoint):
    return torch.load(checkpoint / FILE, weights_only=True)


def tensors(value, prefix=""):
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(item, f"{prefix}/{key}")


def all_tensors(checkpoint):
    return {
        (path.name, name): tensor
        for path in sorted(checkpoint.rglob("*.pt"))
        for name, tensor in tensors(torch.load(path, weights_only=False))
    }


def one_step(trainer, original=Trainer.train):
    trainer.stop = StopRequest()
    trainer.stop.ask("a test")
    return original(trainer)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """A run with all of its checkpoints, two micro-batches a step."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = make_recipe(folder, data, train_micro_batch_size_per_gpu=4)
    assert train(recipe) == 0
    return recipe, folder / "run/checkpoints"


def test_gone_on_at_every_step(whole, tmp_path, monkeypatch):
    """With validations between, which record nothing."""
    recipe, checkpoints = whole
    monkeypatch.setattr(Trainer, "train", one_step)
    again = tmp_path / "again/checkpoints"
    flags = ("--output_dir", again.parent, "--eval_interval", 1)
    valid = json.loads(recipe.read_text())["ds_bert"]["train_data"]
    for step in range(1, STEPS):
        shutil.copytree(checkpoints / f"step_{step}", again / f"step_{step}")
        assert train(recipe, *flags, "--validation_data", valid) in (0, 75)
        expected = all_tensors(checkpoints / f"step_{step + 1}")
        found = all_tensors(again / f"step_{step + 1}")
        assert found.keys() == expected.keys()
        assert not [name for name in expected if not torch.equal(expected[name], found[name])]
        shutil.rmtree(again)


def test_weights_are_cast_once_a_step(tmp_path, data, monkeypatch):
    """DeepSpeed changes them behind the parameters' backs; validation needs them once more."""
    made, cast = [], weights._cast
    monkeypatch.setattr(weights, "_cast", lambda group: made.append(cast(group)) or made[-1])
    recipe = make_recipe(tmp_path, data, {"max_steps": 3, "save_interval": 0})
    assert train(recipe, "--validation_data", data, "--eval_interval", 1) == 0
    assert len(made) == 4 * (3 + 1), "four products; three steps, and what came after the last"
    for before, after in pairwise(made[3::4]):
        assert not torch.equal(before.rows.float() * before.scale, after.rows.float() * after.scale)


def test_the_history_is_saved(whole):
    states = [content(whole[1] / f"step_{n}")["ds_bert"]["fp8"] for n in range(1, STEPS + 1)]
    histories = [state["history"] for state in states]
    assert [state["steps"] for state in states] == list(range(1, STEPS + 1))
    assert histories[-1].shape[1:] == (4, 2), "the middle one of three layers"
    assert histories[-1][:STEPS].all() and not histories[-1][STEPS:].any()
    for before, after in pairwise(histories):
        assert torch.equal(after[1:], before[:-1])
        assert not torch.equal(after[0], before[0])


def test_a_checkpoint_without_scales_begins_anew(whole, tmp_path, data):
    """That of a run in bf16, or of an older one."""
    recipe = make_recipe(tmp_path, data, {"fp8": "off", "max_steps": 1})
    assert train(recipe) == 0
    assert "fp8" not in content(tmp_path / "run/checkpoints/step_1")["ds_bert"]
    assert train(recipe, "--fp8", "delayed", "--max_steps", 2) == 0
    assert content(tmp_path / "run/checkpoints/step_2")["ds_bert"]["fp8"]["steps"] == 1


def on_each_rank(recipe, *flags):
    """Trains, and gives this rank's own largest values of each step, and its history."""
    distributed.shutdown = lambda: None
    found, finish = [], Scales.finish_step

    def record(scales, maxima=None):
        found.append((scales.maxima.clone(), scales))
        finish(scales, maxima)

    Scales.finish_step = record
    try:
        assert train(recipe, *flags) == 0
    finally:
        Scales.finish_step = finish
    return [own for own, _ in found], found[-1][1].state()["history"]


def test_ranks_share_scales_and_other_ranks_go_on_with_them(tmp_path, data):
    recipe = make_recipe(tmp_path, data, {"max_steps": 2})
    (ours, mine), (theirs, other) = run_ranks(on_each_rank, 2, recipe)
    assert torch.equal(mine, other)
    for step, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        assert not torch.equal(one, two)
        assert torch.equal(mine[1 - step], torch.maximum(one, two))
    saved = content(tmp_path / "run/checkpoints/step_2")["ds_bert"]["fp8"]
    assert torch.equal(saved["history"], mine)
    _, alone = on_each_rank(recipe, "--max_steps", 3)
    assert torch.equal(alone[1:], mine[:-1])
    assert alone[0].all()


@pytest.mark.parametrize("step", [0, 2])
def test_a_number_that_is_not_finite_skips_the_step_and_no_more(tmp_path, data, monkeypatch, step):
    """Also in the first step, whose scales come from its own tensors."""
    recipe, original = make_recipe(tmp_path, data), Trainer._step

    def spoilt(trainer, batch):
        layer = trainer.engine.module.bert.encoder.layer[0].output.LayerNorm
        keep = layer.weight.data.clone()
        if trainer.state.step == step:
            layer.weight.data[0] = math.inf
        original(trainer, batch)
        if trainer.state.step == step + 1:
            layer.weight.data.copy_(keep)

    monkeypatch.setattr(Trainer, "_step", spoilt)
    assert train(recipe, "--max_loss_spike", 0, "--save_interval", 0) in (0, 5)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["skipped_steps"] == 1


def test_replay_takes_the_scales_of_the_step(tmp_path, data, monkeypatch):
    """The share of the loss is that of the run, to the last bit."""
    recipe = make_recipe(tmp_path, data, {"log_interval": 1})

    original = DivergenceDetector.after_step

    def after_third(detector, figures, *more):
        found = original(detector, figures, *more)
        return Divergence("a test", 1) if figures.step == 3 else found

    monkeypatch.setattr(DivergenceDetector, "after_step", after_third)
    assert train(recipe, "--max_loss_spike", 0) == 5
    (capsule,) = (tmp_path / "run/diverged").glob("step_3")
    diagnosis = json.loads((capsule / "diagnosis.json").read_text())
    assert torch.tensor(diagnosis["fp8_scales"]).shape == (4, 2)
    part = diagnosis["micro_batches"][0]
    monkeypatch.setattr(distributed, "shutdown", lambda: None)
    lines = list(replay(str(capsule), cpu=True))
    share = next(line for line in lines if "share of the step's loss" in line)
    assert part["share"] > 0
    assert f"share of the step's loss {part['share']:.8g}" in share


@pytest.mark.parametrize("pays", [True, False])
def test_a_run_on_a_gpu_begins_with_a_trial(tmp_path, data, monkeypatch, pays):
    """One that goes on does not: it would go on with other numbers. Here on a CPU."""
    tried, settle, prepare = [], run._settle_fp8, Plan.prepare

    def settle_as_on_a_gpu(plan, model, device, scales):
        settle(plan, model, SimpleNamespace(type="cuda"), scales)

    def give_up(model, tokens, length, without):
        tried.append((tokens, length))
        if not pays:
            without()

    def on_a_cpu(plan, model, device, only=None):
        return prepare(plan, model, torch.device("cpu"), only)

    monkeypatch.setattr(run, "_settle_fp8", settle_as_on_a_gpu)
    monkeypatch.setattr(run, "give_up_if_slower", give_up)
    monkeypatch.setattr(Plan, "prepare", on_a_cpu)
    recipe = make_recipe(tmp_path, data, {"max_steps": 1})
    saved = []
    for step in (1, 2):
        assert train(recipe, "--max_steps", step) == 0
        saved.append("fp8" in content(tmp_path / f"run/checkpoints/step_{step}")["ds_bert"])
    assert saved == [pays, pays]
    assert tried == [(64, 32)]
