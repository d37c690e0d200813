"""Samples that are left out: the file, the order of what is left, and what a rollback refuses."""

import json
from dataclasses import replace

import pytest
from training_util import make_data

from ds_bert import files
from ds_bert.checkpoint.manifest import write_manifest
from ds_bert.config import TrainingConfig
from ds_bert.dataset.store import TokenStore
from ds_bert.divergence import left_out
from ds_bert.divergence.left_out import LeftOut, roll_back
from ds_bert.errors import CheckpointError, ConfigurationError
from ds_bert.training.batches import TrainingBatches
from ds_bert.training.masks import resolve_masks


@pytest.fixture(scope="module")
def table(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("data") / "train"
    return TokenStore.open(make_data(folder, golden)).instances(32)


def batches(table, *ranges, masks=None):
    return TrainingBatches(
        table=table,
        train_batch_size=8,
        micro_batch_size=4,
        rank=0,
        world_size=1,
        seed=5,
        masks=masks,
        left_out=LeftOut(ranges),
    )


def first_samples(table, *ranges, start=0):
    with batches(table, *ranges).iterate(start) as steps:
        return [next(steps).first_sample for _ in range(5)]


@pytest.mark.parametrize(
    ("ranges", "start", "expected"),
    [
        ([], 0, [0, 8, 16, 24, 32]),
        ([(8, 24)], 0, [0, 24, 32, 40, 48]),
        ([(0, 8), (8, 16), (24, 32)], 0, [16, 32, 40, 48, 56]),
        ([(8, 24)], 8, [24, 32, 40, 48, 56]),  # where a run goes on
        ([(8, 24)], 16, [24, 32, 40, 48, 56]),
        ([(8, 24)], 24, [24, 32, 40, 48, 56]),
        ([(8, 24), (10, 20)], 0, [0, 24, 32, 40, 48]),
        ([(11, 13)], 0, [0, 13, 21, 29, 37]),  # written by hand
    ],
)
def test_steps_pass_over_what_is_left_out(table, ranges, start, expected):
    assert first_samples(table, *ranges, start=start) == expected


def test_masks_follow_the_number_of_the_step(table):
    """The third step of a run has the third step's share of masks, whatever was left out."""
    config = TrainingConfig(max_steps=5, masked_lm_prob=0.1, masked_lm_prob_end=0.5)
    masks = resolve_masks(config, table)
    with batches(table, (8, 40), masks=masks).iterate(0) as steps:
        found = [next(steps) for _ in range(3)]
    with batches(table, (8, 40), masks=masks).iterate(8, 1) as steps:
        resumed = [next(steps) for _ in range(2)]
    expected = [batches(table, masks=masks).step(s, n) for n, s in enumerate((0, 40, 48))]
    for steps in (found, [expected[0], *resumed]):
        for step, right in zip(steps, expected, strict=True):
            assert step.counts == right.counts
            assert step.micro_batches[0].input_ids.equal(right.micro_batches[0].input_ids)
    usual = batches(table, masks=masks).step(48)
    assert usual.counts["masked_tokens"] != expected[2].counts["masked_tokens"]


@pytest.mark.parametrize("packed", [False, True])
def test_a_step_knows_its_rows(table, packed):
    step = replace(batches(table), packed=packed).step(16)
    for rows, epochs, batch in zip(step.rows, step.epochs, step.micro_batches, strict=True):
        lengths = [table.rows[row]["a_length"] + table.rows[row]["b_length"] + 3 for row in rows]
        assert lengths == batch.sequence_lengths
        assert (epochs == 0).all()


BAD = ["{", "[1]", '[{"samples": [3]}]', '[{"samples": [4, 4]}]', '[{"samples": [0, 1.5]}]']


@pytest.mark.parametrize("text", [*BAD, "{}", '[{"samples": [-8, 8]}]', '[{"samples": [true, 8]}]'])
def test_a_file_that_cannot_be_understood(tmp_path, text):
    (tmp_path / left_out.FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=r"left_out\.json: "):
        LeftOut.of_run(tmp_path)


def diverged(run, name, samples, date, steps=(3, 4)):
    folder = run / "diverged" / name
    folder.mkdir(parents=True)
    first, last = steps
    found = {"capsule": name, "reason": "why", "date": date, "samples": samples}
    found |= {"first_step": first, "last_step": last}
    (folder / "diagnosis.json").write_text(json.dumps(found))


def checkpoint(run, step):
    folder = run / f"checkpoints/step_{step}"
    folder.mkdir(parents=True)
    (folder / "x").write_text("")
    write_manifest(folder, {"x": files.seal_file(folder / "x")}, {"step": step})


def test_a_rollback_leaves_out_and_goes_back(tmp_path, capsys):
    diverged(tmp_path, "step_4", [16, 32], "2026-01-01")
    for step in (2, 3, 4):
        checkpoint(tmp_path, step)
    roll_back(tmp_path, dry_run=True)
    assert not (tmp_path / left_out.FILE).exists()
    roll_back(tmp_path)
    assert "left out: steps 3 to 4, samples 16 to 31 (why)" in capsys.readouterr().out
    (entry,) = left_out.read(tmp_path)
    assert entry.pop("date")
    assert entry == {"samples": [16, 32], "steps": [3, 4], "reason": "why", "capsule": "step_4"}
    assert [p.name for p in (tmp_path / "checkpoints").glob("step_*")] == ["step_2"]
    assert sorted(p.name for p in (tmp_path / "checkpoints/branch_1").glob("step_*")) == [
        "step_3",
        "step_4",
    ]
    with pytest.raises(ConfigurationError, match=r"nothing has diverged in .* since the last"):
        roll_back(tmp_path)


def test_the_same_step_again(tmp_path):
    """After a rollback step 4 has other samples; they may be bad as well."""
    diverged(tmp_path, "step_4", [16, 32], "2026-01-01")
    roll_back(tmp_path)
    diverged(tmp_path, "step_4.2", [32, 40], "2026-01-02")
    roll_back(tmp_path)
    assert LeftOut.of_run(tmp_path).ranges == ((16, 32), (32, 40))
    assert str(LeftOut.of_run(tmp_path)) == "16 to 31, 32 to 39"


def test_a_crash_between_going_back_and_leaving_out(tmp_path, monkeypatch):
    diverged(tmp_path, "step_4", [16, 32], "2026-01-01")
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 4)

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(left_out, "_leave_out", crash)
        roll_back(tmp_path)
    roll_back(tmp_path)
    assert LeftOut.of_run(tmp_path).ranges == ((16, 32),)


def test_nothing_has_diverged(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nothing has diverged in .*; start again"):
        roll_back(tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_checkpoint_from_before(tmp_path):
    diverged(tmp_path, "step_4", [16, 32], "2026-01-01")
    checkpoint(tmp_path, 4)
    with pytest.raises(CheckpointError, match="is from before step 3; start anew in another"):
        roll_back(tmp_path)
    assert (tmp_path / "checkpoints/step_4").is_dir()


def test_the_file_is_valid_and_whole(tmp_path, monkeypatch):
    diverged(tmp_path, "step_4", [16, 32], "2026-01-01")
    roll_back(tmp_path)
    before = (tmp_path / left_out.FILE).read_text()
    diverged(tmp_path, "step_9", [64, 72], "2026-01-02", (9, 9))

    def fails(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(files.os, "fsync", fails)
        roll_back(tmp_path)
    assert (tmp_path / left_out.FILE).read_text() == before
