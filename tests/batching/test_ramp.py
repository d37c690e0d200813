"""The ramp of the batch: sizes by Megatron's rule, positions and steps as in a plain loop."""

import json
import shutil

import pytest
import torch
from data_util import exit_code
from training_util import make_data, write_recipe

from ds_bert.batching.equation import plan_batch
from ds_bert.batching.ramp import BatchRamp
from ds_bert.commands.train import main
from ds_bert.dataset.store import TokenStore
from ds_bert.divergence.left_out import LeftOut
from ds_bert.errors import ConfigurationError
from ds_bert.launching.run_folder import train_batch_size
from ds_bert.training.batches import TrainingBatches

RECIPE = {"train_batch_size": 16, "train_micro_batch_size_per_gpu": 2}
RAMP = "4,4,24"  # 4, 8 and 12 sequences for 8 samples each
SIZES = [4, 4, 8, 12, 16, 16]  # the step of 12 goes beyond the ramp


def by_megatron(sample, start, increment, samples, full):
    """Written down from its description: equal parts of the samples for each size."""
    for_each = samples / ((full - start) // increment)
    return full if sample >= samples else start + int(sample / for_each) * increment


@pytest.mark.parametrize(
    ("text", "full"), [(RAMP, 16), ("256,256,2000", 4096), ("1,1,7", 3), ("8,8,5", 16)]
)
def test_sizes_and_positions_as_in_a_loop(text, full):
    ramp, sample = BatchRamp.of(text, full), 0
    for step in range(40):
        assert (ramp.samples_after(step), ramp.steps_before(sample)) == (sample, step)
        assert ramp.size(sample) == by_megatron(sample, *map(int, text.split(",")), full)
        sample += ramp.size(sample)
    assert ramp.size(sample) == full


def test_without_a_ramp_all_steps_are_full():
    ramp = BatchRamp.of(None, 16)
    assert [ramp.size(s) for s in (0, 16)] == [16, 16]
    assert (ramp.samples_after(3), ramp.steps_before(48), ramp.unit) == (48, 3, 16)


@pytest.mark.parametrize("text", ["4", "4,4", "0,4,24", "4,0,24", "4,4,0", "a,b,c", "16,4,24"])
def test_what_is_no_ramp_to_the_batch(text):
    with pytest.raises(ConfigurationError, match="batch_ramp"):
        BatchRamp.of(text, 16)


def test_increments_have_to_lead_to_the_batch():
    with pytest.raises(ConfigurationError, match="which increments lead to"):
        BatchRamp.of("4,5,24", 16)


def test_all_sizes_have_to_divide():
    assert plan_batch(RECIPE, 2, ramp=RAMP).accumulation_steps == 4
    message = "start 4 or increment 4 is not a multiple of 4 .* x 2 .* = 8; use .*_per_gpu 2"
    wide = RECIPE | {"train_micro_batch_size_per_gpu": 4}
    with pytest.raises(ConfigurationError, match=message):
        plan_batch(wide, 2, ramp=RAMP)
    assert plan_batch(wide, 2, True, RAMP).micro_batch_size == 2
    with pytest.raises(ConfigurationError, match="use start and increment that are multiples"):
        plan_batch(wide, 4, ramp="6,5,24")


def test_elastic_launches_choose_ranks_that_divide_all_sizes(tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(RECIPE | {"ds_bert": {"batch_ramp": RAMP}}))
    line = ["--module", "ds_bert.train", "--ds_config", str(recipe)]
    assert train_batch_size(line) == 4
    assert train_batch_size([*line, "--batch_ramp", "8,8,24"]) == 8


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data"), golden)


def run(folder, data, engine=None, **section):
    folder.mkdir(exist_ok=True)
    section = {"max_steps": len(SIZES), "log_interval": 1, "validation_data": "", **section}
    recipe = write_recipe(folder, data, section=section, **RECIPE | (engine or {}))
    assert exit_code(main, "--ds_config", recipe) == 0
    return [json.loads(row) for row in (folder / "run/metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def seen(monkeypatch):
    """Rows of each step that is trained, and its micro-batches."""
    original, steps = TrainingBatches.step, {}

    def step(batches, first_sample, number):
        made = original(batches, first_sample, number)
        steps[number] = made
        return made

    monkeypatch.setattr(TrainingBatches, "step", step)
    return steps


def rows_of(seen, number):
    return [row for step in range(number) for rows in seen[step].rows for row in rows.tolist()]


def engine_of(folder):
    path = folder / f"run/checkpoints/step_{len(SIZES)}/engine"
    (optimizer,) = path.glob("*optim_states.pt")
    state = torch.load(optimizer, weights_only=False)["optimizer_state_dict"]
    return state["single_partition_of_fp32_groups"][0]


@pytest.mark.usefixtures("one_process_group")
def test_a_run_in_the_order_of_one_without(tmp_path, data, seen, capsys):
    found = run(tmp_path / "ramp", data, batch_ramp=RAMP, save_interval=3)
    assert [row["batch_size"] for row in found] == SIZES
    assert [row["num_sequences"] for row in found] == SIZES
    assert [row["samples"] for row in found] == [sum(SIZES[: n + 1]) for n in range(len(SIZES))]
    assert [len(seen[n].micro_batches) for n in range(len(SIZES))] == [n // 2 for n in SIZES]
    shown = capsys.readouterr().out
    assert "ranks 1; from 4, up by 4 within 24 sequences (4 steps)" in shown
    assert "steps: 6 = 60 sequences" in shown
    order = rows_of(seen, len(SIZES))
    seen.clear()

    # Going on from within the ramp.
    shutil.copytree(tmp_path / "ramp", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed/run/checkpoints/step_6")
    resumed = run(tmp_path / "resumed", data, batch_ramp=RAMP, save_interval=3)
    assert min(seen) == 3
    assert [row["loss"] for row in resumed] == [row["loss"] for row in found]
    assert torch.equal(engine_of(tmp_path / "resumed"), engine_of(tmp_path / "ramp"))
    seen.clear()

    # Another ramp is another run; and without one the samples come in the same order.
    line = ["--ds_config", tmp_path / "ramp/recipe.json", "--batch_ramp", "8,8,24"]
    assert exit_code(main, *line, "--max_steps", 9) == 4
    assert "batch_ramp 4,4,24 instead of 8,8,24" in capsys.readouterr().err
    run(tmp_path / "plain", data, max_steps=4)
    assert rows_of(seen, 4)[: len(order)] == order


@pytest.mark.usefixtures("one_process_group")
@pytest.mark.parametrize("precision", [{}, {"bf16": {"enabled": True}}], ids=["fp32", "bf16"])
def test_a_step_of_a_ramp_is_a_step_of_that_batch(tmp_path, data, precision):
    """The engine divides by the accumulation of full steps, which the loss makes good."""
    how = {"max_steps": 2, "warmup_steps": 0}
    ramp = run(tmp_path / "ramp", data, batch_ramp="8,8,24", engine=precision, **how)
    plain = run(tmp_path / "plain", data, engine=precision | {"train_batch_size": 8}, **how)
    for name in ("loss", "gradient_norm", "samples"):
        found, expected = ([row[name] for row in rows] for rows in (ramp, plain))
        assert found == pytest.approx(expected, rel=1e-5 if not precision else 1e-2)


def test_steps_pass_over_what_is_left_out_with_the_size_of_where_they_go_on(data):
    """Sample 4 is out: the second step, of 4, starts at 6 instead; the next one at 10, of 8."""
    table = TokenStore.open(data).instances(32)
    sizes = {"train_batch_size": 16, "micro_batch_size": 2, "ramp": BatchRamp.of(RAMP, 16)}
    left_out = LeftOut(((4, 6), (17, 18)))
    batches = TrainingBatches(table=table, rank=0, world_size=1, seed=1, left_out=left_out, **sizes)
    with batches.iterate(0) as steps:
        found = [next(steps) for _ in range(4)]
    starts = [(step.first_sample, step.counts["sequences"]) for step in found]
    assert starts == [(0, 4), (6, 4), (18, 12), (30, 16)]
