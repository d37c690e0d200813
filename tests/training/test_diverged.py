"""Runs that diverge: what is told and kept, what a replay finds, and how a run goes on."""

import errno
import io
import json
import os
import re
import shutil
from collections import Counter
from contextlib import redirect_stderr

import pytest
import torch
from data_util import exit_code
from distributed_util import run_ranks
from safetensors import safe_open
from safetensors.torch import load_file
from training_util import make_data, write_recipe
from transformers.models.bert.modeling_bert import BertEmbeddings

from ds_bert.commands.replay import main as replay_main
from ds_bert.commands.train import main, parse_command_line
from ds_bert.config import TrainingConfig
from ds_bert.dataset.store import TokenStore
from ds_bert.divergence import capsule
from ds_bert.errors import TrainingDiverged
from ds_bert.training import trainer
from ds_bert.training.batches import TrainingBatches
from ds_bert.training.masks import resolve_masks
from ds_bert.training.run import run as run_plan

pytestmark = pytest.mark.usefixtures("one_process_group")
SECTION = {"max_steps": 6, "log_interval": 1, "save_interval": 2, "max_consecutive_skips": 1}
SECTION |= {"masked_lm_prob_end": 0.4}  # so masks tell the number of the step
BATCH, BAD_STEP = 8, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


def batches(data, **options):
    options = {"rank": 0, "world_size": 1, "micro_batch_size": 2, **options}
    table = TokenStore.open(data).instances(32)
    masks = resolve_masks(TrainingConfig(max_steps=6, masked_lm_prob_end=0.4), table)
    return TrainingBatches(table=table, train_batch_size=BATCH, seed=42, masks=masks, **options)


@pytest.fixture(scope="module")
def bad_token(data):
    """Shown in one row of the last micro-batch of step 3, and nowhere else in the first 8 steps."""
    whole = batches(data)
    steps = [whole.step(BATCH * n) for n in range(8)]
    parts = [part for step in steps for part in step.micro_batches]
    shown = torch.cat([ids for part in parts for ids in (part.input_ids, part.masked_lm_labels)])
    seen = Counter(shown.tolist())
    last = steps[BAD_STEP - 1].micro_batches[-1]
    first_row = last.input_ids[: last.sequence_lengths[0]].tolist()
    return next(token for token in first_row if seen[token] == 1)


@pytest.fixture
def poisoned(monkeypatch, bad_token):
    poison(monkeypatch, bad_token)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data, bad_token):
    """The folder of a run that has ended in step 3, and what it said."""
    folder, errors = tmp_path_factory.mktemp("diverged"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(errors):
        poison(patch, bad_token)
        assert train(write_recipe(folder, data, section=SECTION)) == 5
    return folder / "run", errors.getvalue()


def poison(monkeypatch, token):
    """Embeddings of a token are no numbers; all weights are."""
    embed = BertEmbeddings.forward

    def forward(self, input_ids, *rest):
        hidden = embed(self, input_ids, *rest)
        return hidden.masked_fill((input_ids == token)[..., None], float("nan"))

    monkeypatch.setattr(BertEmbeddings, "forward", forward)


def train(recipe, *flags):
    return exit_code(main, "--ds_config", recipe, *flags)


def weights(run, step):
    return load_file(run / f"checkpoints/step_{step}/hf/model.safetensors")


def diagnosis(run, name=f"step_{BAD_STEP}"):
    return json.loads((run / f"diverged/{name}/diagnosis.json").read_text())


@pytest.fixture
def diverged(tmp_path, data, poisoned, finished):
    """A copy of that run, and a recipe that goes on with it."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run", write_recipe(tmp_path, data, section=SECTION)


def test_a_bad_row_is_named(finished, data):
    run, error = finished
    row = batches(data).step(BATCH * (BAD_STEP - 1)).rows[-1][0]
    assert error.startswith("error: a step had non-finite gradients (step 3); ")
    assert "output that is not finite is that of bert.embeddings (rank 0, micro-batch 3, " in error
    assert f"row {row:,} of {data} in epoch 0)" in error
    assert f"ds-bert replay {run}/diverged/step_3 runs it again; --rollback true" in error
    assert "Traceback" not in error and error.count("\n") == 2


def test_what_is_kept(finished, data):
    run, _ = finished
    found = diagnosis(run)
    assert (found["first_step"], found["last_step"], found["samples"]) == (3, 3, [16, 24])
    assert found["weights"] == {"of": "before step 3", "not_finite": []}
    assert found["checkpoint"] == str(run / "checkpoints/step_2")
    assert [f["step"] for f in found["last_steps"]] == [1, 2, 3]
    assert found["run"]["ds_bert"]["seed"] == 42 and "torch" in found["run"]["versions"]
    assert found["last_steps"][-1]["loss"] is None and found["last_steps"][-1]["skipped"]
    good, bad = found["micro_batches"][0], found["micro_batches"][-1]
    assert good["first_output_not_finite"] is None and good["gradients_not_finite"] == 0
    assert bad["rows_not_finite"] == 1 and bad["largest_losses"][0]["loss"] is None
    assert bad["largest_losses"][1]["loss"] > 0, "the other row is as it should be"
    folder = run / "diverged/step_3"
    assert all(p.suffix in (".json", ".safetensors", ".txt", ".md") for p in folder.glob("*/*.*"))
    kept = load_file(folder / "model/model.safetensors")
    before = weights(run, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.items())
    with safe_open(folder / "rank_0.safetensors", "pt") as file:
        ids = file.get_tensor("3.input_ids")
    assert ids.equal(batches(data).step(16).micro_batches[3].input_ids)


def test_the_run_is_reproduced(finished):
    """Forward passes with the same dropout: equal in every bit."""
    shares = [(r["share"], r["share_in_the_run"]) for r in diagnosis(finished[0])["micro_batches"]]
    assert all(share == before for share, before in shares)
    assert [share is None for share, _ in shares] == [False, False, False, True]


def test_a_replay_finds_the_same(diverged, tmp_path, capsys):
    """From the folder alone."""
    run, _ = diverged
    found = diagnosis(run)
    shutil.move(run / "diverged/step_3", tmp_path / "elsewhere")
    shutil.rmtree(run)
    assert exit_code(replay_main, tmp_path / "elsewhere", "--rows", 1) == 0
    shown = capsys.readouterr().out
    losses = re.findall(r"micro-batch \d: loss (\S+);", shown)
    expected = [report["loss"] for report in found["micro_batches"]]
    assert losses == [f"{loss:.6g}" for loss in expected[:-1]] + ["nan"]
    shares = re.findall(r"share of the step's loss (\S+), in the run (\S+);", shown)
    assert len(shares) == 4 and all(share == before for share, before in shares)
    assert "the first output that is not finite is that of bert.embeddings;" in shown
    row = found["micro_batches"][-1]["largest_losses"][0]["row"]
    assert re.search(rf"row {row:,} in epoch 0, loss nan: \d+ tokens, .*\n +A: \w", shown)
    assert re.search(r"bert\.encoder\.layer\.0\.output\.dense\.bias +nan", shown)


def test_a_spike_that_stays(tmp_path, data, monkeypatch):
    rising = iter([2.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    monkeypatch.setattr(trainer, "total_loss", lambda metrics: next(rising))
    recipe = write_recipe(tmp_path, data, section=SECTION)
    assert train(recipe) == 5
    found = diagnosis(tmp_path / "run", "step_6")
    assert "max_loss_spike 4 above the lowest one, 2.00, in 5 intervals" in found["reason"]
    assert found["cause"] == "weights, losses and gradients of the last step are finite"
    assert (found["first_step"], found["samples"]) == (2, [8, 48])
    assert found["weights"]["of"] == "after step 6"
    assert all(f["gradient_norm"] > 0 and f["loss"] > 0 for f in found["last_steps"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """A run without a stop that leaves those samples out."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = write_recipe(folder, data, section=SECTION)
    (folder / "run").mkdir()
    (folder / "run/left_out.json").write_text('[{"samples": [16, 24]}]')
    assert train(recipe) == 0
    return folder / "run"


def test_a_rollback_goes_on_without_the_bad_samples(diverged, whole, capsys):
    """Equal in every bit to the run that has never met them, and so is each later start."""
    run, recipe = diverged
    assert train(recipe, "--rollback", "true") == 0
    out = capsys.readouterr().out
    assert "rollback to step 2 or before; left out: steps 3 to 3, samples 16 to 23" in out
    assert "resume from" in out and "step_2" in out and "samples left out: 16 to 23" in out
    entry = json.loads((run / "left_out.json").read_text())[0]
    assert entry["samples"] == [16, 24] and entry["capsule"] == "step_3"
    shutil.move(run / "checkpoints/step_6", run / "first")
    assert train(recipe) == 0
    expected = weights(whole, 6)
    for found in (weights(run, 6), load_file(run / "first/hf/model.safetensors")):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert train(recipe, "--rollback", "true") == 2
    assert "nothing has diverged" in capsys.readouterr().err


def test_a_rollback_that_is_only_tried(diverged, capsys):
    run, recipe = diverged
    before = sorted(run.rglob("*"))
    assert train(recipe, "--rollback", "true", "--dry_run") == 0
    assert "samples 16 to 23" in capsys.readouterr().out
    assert sorted(run.rglob("*")) == before


def test_a_loss_that_is_no_number_ends_the_run_at_its_step(tmp_path, data, poisoned, capsys):
    """Without ZeRO no gradient is looked at, so the step is applied; it is not saved."""
    section = SECTION | {"log_interval": 100, "save_interval": 1, "max_steps": 200}
    recipe = write_recipe(tmp_path, data, section=section, zero_optimization={"stage": 0})
    assert train(recipe) == 5
    error = capsys.readouterr().err
    assert error.startswith("error: the loss is not a number (step 3); 46 weights are not finite")
    found = diagnosis(tmp_path / "run")
    assert found["weights"]["of"] == "after step 3" and len(found["weights"]["not_finite"]) == 46
    folder = tmp_path / "run/diverged/step_3"
    assert not (folder / "model/model.safetensors").exists()
    assert exit_code(replay_main, folder) == 4
    error = capsys.readouterr().err
    assert "has no weights (they are not finite); name others with --model" in error
    model = re.search(r"such as (\S+)", error)[1]
    assert model.endswith("checkpoints/step_2/hf")
    assert exit_code(replay_main, folder, "--model", model) == 0
    assert "is that of bert.embeddings;" in capsys.readouterr().out


def test_fp16_at_the_lowest_loss_scale(tmp_path, data, monkeypatch, capsys):
    fp16 = {"enabled": True, "initial_scale_power": 1, "hysteresis": 1}
    poison(monkeypatch, TokenStore.open(data).vocabulary.cls_id)
    section = SECTION | {"max_consecutive_skips": 4}
    assert train(write_recipe(tmp_path, data, section=section, fp16=fp16)) == 5
    error = capsys.readouterr().err
    assert "4 steps in a row had non-finite gradients, the last at a loss scale of 1 " in error
    assert "or train in bf16" in error and "all rows: not the data but the weights" in error
    assert [f["loss_scale"] for f in diagnosis(tmp_path / "run", "step_4")["last_steps"]] == [
        *(2.0, 1.0, 1.0, 1.0)
    ]


def test_a_full_disk_does_not_hide_the_reason(tmp_path, data, poisoned, monkeypatch, capsys):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(capsule, "_new_folder", full_disk)
    recipe = write_recipe(tmp_path, data, section=SECTION)
    assert train(recipe) == 5
    shown = capsys.readouterr()
    assert "nothing could be kept (No space left on device)" in shown.out
    assert shown.err.startswith("error: a step had") and "nothing could be kept of it" in shown.err
    assert train(recipe, "--rollback", "true") == 2


def test_what_is_no_capsule(tmp_path, diverged, capsys):
    run, _ = diverged
    folder = run / "diverged/step_3"
    assert exit_code(replay_main, tmp_path) == 4
    assert "is no capsule" in capsys.readouterr().err
    assert exit_code(replay_main, folder, "--rank", 1) == 2
    assert "rank: found 1, expected one of 0 to 0" in capsys.readouterr().err
    (folder / "rank_0.safetensors").write_bytes(b"x" * 100)
    assert exit_code(replay_main, folder) == 4
    assert "rank_0.safetensors: cannot be read" in capsys.readouterr().err


def diverging_rank(recipes, token):
    """What a rank says at the end of each run."""
    answers = []
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, token)
        for recipe in recipes:
            try:
                run_plan(*parse_command_line(["--ds_config", str(recipe)]))
            except TrainingDiverged as error:
                answers.append(str(error))
    return answers


def test_a_bad_row_on_one_of_two_ranks(tmp_path, data, bad_token):
    """Both come to the same answer at the step, with and without a look at the gradients."""
    section = SECTION | {"log_interval": 100, "max_steps": 200}
    for stage in (0, 1):
        (tmp_path / str(stage)).mkdir()
    recipes = [
        write_recipe(tmp_path / str(s), data, section=section, zero_optimization={"stage": s})
        for s in (0, 1)
    ]
    answers, others = run_ranks(diverging_rank, 2, recipes, bad_token)
    assert answers == others
    assert answers[0].startswith("the loss is not a number (step 3); 46 weights are not")
    assert answers[1].startswith("a step had non-finite gradients (step 3)")
    assert "(rank 1, micro-batch 1, row " in answers[1]
    found = diagnosis(tmp_path / "1/run")
    assert {r["rank"] for r in found["micro_batches"] if r["rows_not_finite"]} == {1}
    for stage in (0, 1):
        names = {path.name for path in (tmp_path / f"{stage}/run/diverged/step_3").iterdir()}
        assert {"rank_0.safetensors", "rank_1.safetensors"} <= names
