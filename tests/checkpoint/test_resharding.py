"""A run goes on at another number of ranks or ZeRO stage: nothing is lost, nothing done twice."""

import json
import shutil
from collections import ChainMap
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from data_util import exit_code
from distributed_util import run_ranks
from training_util import MODEL, make_data, write_recipe

from ds_bert import distributed
from ds_bert.checkpoint import state
from ds_bert.checkpoint.folder import Checkpoint
from ds_bert.checkpoint.manifest import read_manifest
from ds_bert.commands.train import main
from ds_bert.optim.average import AVERAGE
from ds_bert.training.trainer import Trainer
from ds_bert.weights.zero_shards import read_average

pytestmark = pytest.mark.usefixtures("one_process_group")
MODEL_FILE = "mp_rank_00_model_states.pt"
RANKS = (4, 2, 1, 3)  # one after the other, two steps each
STEPS = 2 * len(RANKS)
LAMB = {"type": "Lamb", "params": {"lr": 0.01, "weight_decay": 0.01}}  # one group of tensors
ADAMW = {"type": "AdamW", "params": {"lr": 0.002}}  # two
CHAINS = {"Lamb": {"optimizer": LAMB}, "AdamW": {"optimizer": ADAMW}}
FP16 = {"enabled": True, "initial_scale_power": 17, "hysteresis": 1}  # skips the first step
STAGE_0 = {"stage 0": {"optimizer": ADAMW, "zero_optimization": {"stage": 0}}}
FORMATS = {
    "bf16": {"optimizer": ADAMW, "bf16": {"enabled": True}},
    "fp16": {"optimizer": LAMB, "fp16": FP16},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


def make_recipe(folder: Path, data: Path, save_interval: int = 0, **engine) -> Path:
    """A recipe of 8 steps of 12 sequences, without dropout, which differs between ranks."""
    folder.mkdir(parents=True)
    section = {"max_steps": STEPS, "log_interval": 1, "save_interval": save_interval}
    section["ema_decay"] = 0.5
    engine = {"train_batch_size": 12, "train_micro_batch_size_per_gpu": 1} | engine
    path = write_recipe(folder, data, section=section | {"validation_data": ""}, **engine)
    still = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    (folder / "model.json").write_text(json.dumps(MODEL | still))
    return path


def train(recipe: Path, steps: int, *flags) -> list[list[int]]:
    """Train some steps, save and stop; the rows of each step over all ranks, in order."""
    original, rows = Trainer._step, []

    def step(trainer, batch):
        parts = distributed.gather(np.concatenate(batch.rows).tolist())
        rows.append([row for part in parts for row in part])
        if len(rows) == steps:
            trainer.stop.ask("the test")
        original(trainer, batch)

    with mock.patch.object(Trainer, "_step", step):
        assert exit_code(main, "--ds_config", recipe, *map(str, flags)) in (0, 75)
    return rows


def started(recipe: Path, *flags):
    """The engine of a run on one rank, as it is before the first step."""
    found = []
    with mock.patch.object(Trainer, "train", lambda trainer: found.append(trainer.engine) or 0):
        assert exit_code(main, "--ds_config", recipe, *map(str, flags)) == 0
    return found[0]


def on_each_rank(recipes: list[Path], steps: int, *flags) -> list[list[list[int]]]:
    distributed.shutdown = lambda: None
    return [train(recipe, steps, *flags) for recipe in recipes]


@pytest.fixture(scope="module")
def of_four_ranks(tmp_path_factory, data):
    """Folders of runs that have done two steps on four ranks, and the rows of those."""
    folder = tmp_path_factory.mktemp("four")
    cases = CHAINS | FORMATS | STAGE_0
    recipes = [
        make_recipe(folder / name, data, save_interval=int(name == "AdamW"), **cases[name])
        for name in cases
    ]
    rows = run_ranks(on_each_rank, RANKS[0], recipes, 2, timeout=300)[0]
    return folder, dict(zip(cases, rows, strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """Recipes of runs on one rank that nothing happened to, and their rows."""
    folder = tmp_path_factory.mktemp("whole")
    recipes = {name: make_recipe(folder / name, data, **CHAINS[name]) for name in CHAINS}
    return {name: (recipe, train(recipe, STEPS)) for name, recipe in recipes.items()}


@pytest.fixture
def copy_of(of_four_ranks, tmp_path):
    """Copies such a run, to be gone on with."""

    def copy(name: str) -> Path:
        shutil.copytree(of_four_ranks[0] / name / "run", tmp_path / name / "run")
        recipe = json.loads((of_four_ranks[0] / name / "recipe.json").read_text())
        recipe["ds_bert"]["output_dir"] = str(tmp_path / name / "run")
        path = tmp_path / name / "recipe.json"
        path.write_text(json.dumps(recipe))
        return path

    return copy


def losses(recipe: Path) -> list[float]:
    lines = (recipe.parent / "run/metrics.jsonl").read_text().splitlines()
    return [row["mlm_loss"] + row["nsp_loss"] for row in map(json.loads, lines)]


def test_four_two_one_three_ranks(of_four_ranks, copy_of, whole):
    """Rows in the order, and losses, of a run on one rank that nothing happened to."""
    recipes = [copy_of(name) for name in CHAINS]
    rows = [list(of_four_ranks[1][name]) for name in CHAINS]
    for ranks in RANKS[1:]:  # micro-batches of 3, 4 and 4
        how = (recipes, 2, "--train_micro_batch_size", 5, "--elastic_batch", "true")
        found = (
            on_each_rank(*how)
            if ranks == 1
            else run_ranks(on_each_rank, ranks, *how, timeout=300)[0]
        )
        for mine, more in zip(rows, found, strict=True):
            mine += more
    for name, recipe, found in zip(CHAINS, recipes, rows, strict=True):
        undisturbed, expected = whole[name]
        assert found == expected
        assert len(losses(recipe)) == STEPS
        assert losses(recipe) == pytest.approx(losses(undisturbed), rel=0, abs=1e-6)
        ends = [
            torch.load(path.parent / f"run/checkpoints/step_{STEPS}/engine" / MODEL_FILE)
            for path in (recipe, undisturbed)
        ]
        for key in ("lr_scheduler", "skipped_steps", "global_steps", "global_samples", "ds_bert"):
            assert ends[0][key] == ends[1][key], key


VECTORS = ("exp_avg", "exp_avg_sq", AVERAGE)


def put_together(engine_folder: Path, group: int) -> dict[str, torch.Tensor]:
    """Masters, moments, average and step of a group from the files of all ranks, with padding."""
    files = sorted(engine_folder.glob("*optim_states.pt"))
    parts = [torch.load(path, weights_only=False)["optimizer_state_dict"] for path in files]
    states = [part["base_optimizer_state"]["state"][group] for part in parts]
    moments = {name: torch.cat([s[name] for s in states]) for name in VECTORS}
    masters = torch.cat([part["single_partition_of_fp32_groups"][group] for part in parts])
    return moments | {"masters": masters, "step": states[0]["step"]}


@pytest.mark.parametrize(
    ("name", "carry"),
    [*((name, False) for name in (*CHAINS, *FORMATS)), ("Lamb", True), ("AdamW", True)],
)
def test_each_format_is_put_together_bit_by_bit(of_four_ranks, copy_of, tmp_path, name, carry):
    recipe = copy_of(name)
    last = recipe.parent / "run/checkpoints/step_2"
    other = ("--init_from", last, "--carry_moments", "true", "--output_dir", tmp_path / "new")
    engine = started(recipe, *(other if carry else ()))
    inner = engine.optimizer.optimizer
    assert len(inner.param_groups) == (1 if name in ("Lamb", "fp16") else 2)
    for number, group in enumerate(inner.param_groups):
        (held,) = group["params"]
        expected, state = put_together(last / "engine", number), inner.state[held]
        assert (AVERAGE in state) != carry, "it begins anew where only moments are taken"
        for key, value in {"masters": held.detach(), **state}.items():
            if key == "step":
                assert value == (0 if carry else expected[key])
                continue
            length = min(len(value), len(expected[key]))
            assert torch.equal(value[:length], expected[key][:length])
            assert key != AVERAGE or name == "fp16" or not torch.equal(value, held)
            assert value.any() and not value[length:].any() and not expected[key][length:].any()
    saved = torch.load(last / "engine" / MODEL_FILE, weights_only=False)["module"]
    found = engine.module.state_dict()
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[key], saved[key]) for key in saved)
    if name == "fp16":
        assert engine.optimizer.cur_scale == 2.0**16
    counts = engine.global_steps, engine.skipped_steps
    assert counts == ((0, 0) if carry else (2, int(name == "fp16")))


@pytest.mark.parametrize("name", CHAINS)
def test_the_average_of_four_ranks_by_name(of_four_ranks, name):
    last = of_four_ranks[0] / name / "run/checkpoints/step_2"
    found = read_average("the run", Checkpoint(last, read_manifest(last)))
    groups = torch.load(last / "engine" / MODEL_FILE, weights_only=False)["param_shapes"]
    assert {key: value.shape for key, value in found.items()} == dict(ChainMap(*groups))
    for number, group in enumerate(groups):
        parts = torch.cat([found[key].flatten() for key in group])
        assert torch.equal(parts, put_together(last / "engine", number)[AVERAGE][: len(parts)])


def test_a_damaged_part_of_the_four_and_an_older_checkpoint(copy_of, capsys):
    recipe = copy_of("AdamW")
    newest = recipe.parent / "run/checkpoints/step_2"
    path = newest / "engine/zero_pp_rank_3_mp_rank_00_optim_states.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    engine = started(recipe)
    output = capsys.readouterr().out
    assert f"{path.name} does not match its checksum; going back to an older one" in output
    assert "step_1, of 4 ranks at ZeRO stage 1, for 1 rank at ZeRO stage 1" in output
    assert engine.global_steps == 1
    assert (newest.parent / "step_2.corrupt").is_dir()


@pytest.mark.parametrize("name", CHAINS)
def test_from_stage_1_to_stage_0_and_back(tmp_path, data, whole, name):
    parts, rows = make_recipe(tmp_path / "parts", data, **CHAINS[name]), []
    for stage in (1, 0, 1):
        recipe = json.loads(parts.read_text()) | {"zero_optimization": {"stage": stage}}
        parts.write_text(json.dumps(recipe))
        rows += train(parts, 2)
    recipe, expected = whole[name]
    assert rows == expected[:6]
    assert losses(parts) == pytest.approx(losses(recipe)[:6], rel=0, abs=1e-6)


def test_stage_0_on_fewer_ranks(copy_of, whole):
    recipe = copy_of("stage 0")
    train(recipe, 2)
    assert losses(recipe) == pytest.approx(losses(whole["AdamW"][0])[:4], rel=0, abs=1e-6)


def test_dropout_of_other_ranks(tmp_path, monkeypatch):
    """Streams of their own, the same at each start from the same checkpoint."""
    seeds = []
    for step, rank in ((3, 0), (3, 1), (4, 0), (3, 0)):
        monkeypatch.setenv("RANK", str(rank))
        state._restart_random_state(Checkpoint(tmp_path / f"step_{step}", {"seed": 42}))
        seeds.append(torch.initial_seed())
    assert seeds[0] == seeds[3] and len(set(seeds)) == 3
