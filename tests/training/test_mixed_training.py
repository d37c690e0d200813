"""Weights of corpora in training, and losses for each of them."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from data_util import exit_code, make_store, synthetic_text
from training_util import write_recipe

from ds_bert import train
from ds_bert.commands.evaluate import main as evaluate
from ds_bert.evaluation import loop
from ds_bert.instances.mixture import SampleOrder
from ds_bert.training.batches import TrainingBatches

pytestmark = pytest.mark.usefixtures("one_process_group")


@pytest.fixture(scope="module")
def store(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("data")
    (folder / "pt.txt").write_text(synthetic_text(10))
    return make_store(
        folder / "train",
        [f"en={golden}/inputs/en_a.txt:2", f"pt={folder}/pt.txt"],
        golden / "vocab/uncased_vocab.txt",
        max_seq_length=(32,),
    )


def batches(store, **options):
    table = store.instances(32)
    defaults = {"train_batch_size": 8, "micro_batch_size": 2, "rank": 0, "world_size": 1, "seed": 3}
    order = SampleOrder.of(table, None, 3)
    return TrainingBatches(table=table, order=order, **(defaults | options))


def test_two_to_one_in_ten_thousand_steps(store):
    """80,000 samples are 26,666 blocks of three and two more."""
    made = batches(store)
    english, portuguese = made.table.corpora
    rows, epochs = np.concatenate(
        [np.stack(made._locate(8 * step)) for step in range(10_000)], axis=1
    )
    num_english = int((rows < english.last).sum())
    assert num_english in (53_333, 53_334)
    for corpus, number in ((english, num_english), (portuguese, 80_000 - num_english)):
        mine = (corpus.first <= rows) & (rows < corpus.last)
        times = Counter(rows[mine].tolist())
        assert max(times.values()) - min(times.values()) <= 2, "all rows in turn"
        assert epochs[mine].max() == (number - 1) // corpus.size


@pytest.mark.parametrize("world_size", [1, 2])
def test_going_on_in_the_middle_is_the_same_in_every_bit(store, world_size):
    for rank in range(world_size):
        made = batches(store, rank=rank, world_size=world_size)
        with made.iterate(0) as steps:
            whole = [next(steps) for _ in range(12)]
        with made.iterate(56) as steps:
            rest = [next(steps) for _ in range(5)]
        for one, other in zip(whole[7:], rest, strict=True):
            assert one.first_sample == other.first_sample and one.counts == other.counts
            assert np.array_equal(one.rows, other.rows)
            assert np.array_equal(one.epochs, other.epochs)
            for left, right in zip(one.micro_batches, other.micro_batches, strict=True):
                assert torch.equal(left.input_ids, right.input_ids)
                assert torch.equal(left.masked_lm_labels, right.masked_lm_labels)


def test_the_number_of_ranks_does_not_matter(store):
    alone = batches(store).step(16)
    shared = [batches(store, rank=rank, world_size=2).step(16) for rank in range(2)]
    assert np.array_equal(np.concatenate([step.rows for step in shared]), alone.rows)
    assert np.array_equal(np.concatenate([step.epochs for step in shared]), alone.epochs)


def test_masks_follow_the_epoch_of_the_corpus(store):
    """Where a corpus begins anew, the masks of its rows change, whatever the others do."""
    made = batches(store)
    portuguese = made.table.corpora[1]
    seen = {}
    for step in range(3 * portuguese.size // 2):
        rows, epochs = made._locate(8 * step)
        for row, epoch in zip(rows.tolist(), epochs.tolist(), strict=True):
            if row >= portuguese.first:
                seen.setdefault(row, []).append(epoch)
    for epochs in seen.values():
        assert epochs == list(range(len(epochs)))
    assert min(map(len, seen.values())) >= 3


@pytest.mark.parametrize("max_sequences", [None, 40, 1])
def test_validation_is_on_each_corpus_by_its_size(store, max_sequences, monkeypatch):
    table, seen = store.instances(32), []
    monkeypatch.setattr(loop, "make_batch", lambda table, rows, *_: seen.append(rows))
    for rank in range(2):
        batches = loop.evaluation_batches(
            table, micro_batch_size=7, rank=rank, world_size=2, seed=1, max_sequences=max_sequences
        )
        assert all(batch is None for batch in batches)
    rows = np.concatenate(seen)
    assert len(rows) == len(set(rows.tolist())) == (max_sequences or len(table))
    for part in seen:
        assert len(set(np.searchsorted([table.corpora[0].last], part, "right"))) == 1
    for corpus in table.corpora:
        number = ((corpus.first <= rows) & (rows < corpus.last)).sum()
        assert abs(number - len(rows) * corpus.size / len(table)) < 1


def run(recipe, *more):
    return exit_code(train.main, "--ds_config", recipe, *more)


def rows_of(folder, kind):
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def test_a_run(store, golden, tmp_path, capsys):
    """The plan, what may change when it goes on, and losses by corpus."""
    section = {"save_interval": 2, "eval_interval": 2, "max_eval_sequences": 40}
    recipe = write_recipe(tmp_path, store.folder, section=section)
    assert run(recipe, "--dry_run", "true") == 0
    english = store.instances(32).corpora[0]
    shown = capsys.readouterr().out
    assert f"en 66.7% of samples, {32 * 2 / 3 / english.size:.2f} epochs in this run" in shown
    assert run(recipe, "--dry_run", "true", "--corpus_weights", "en=1,pt=3") == 0
    assert "pt 75.0% of samples" in capsys.readouterr().out

    assert run(recipe) == 0
    assert "; mlm_loss of en " in capsys.readouterr().out
    for row in rows_of(tmp_path, "validation"):
        assert row["num_sequences"] == 40
        for loss, count in (("mlm", "masked_tokens"), ("nsp", "sequences")):
            for figure in ("loss", "accuracy"):
                total = sum(
                    row[f"{loss}_{figure}_{name}"] * row[f"num_{count}_{name}"]
                    for name in ("en", "pt")
                )
                mean = total / row[f"num_{count}"]
                assert mean == pytest.approx(row[f"{loss}_{figure}"], rel=1e-12)
        for count in ("sequences", "masked_tokens", "tokens"):
            assert row[f"num_{count}_en"] + row[f"num_{count}_pt"] == row[f"num_{count}"]
    assert not any("_en" in name for row in rows_of(tmp_path, "train") for name in row)

    assert run(recipe, "--max_steps", "6", "--corpus_weights", "pt=5") == 4
    assert "corpus_weights en 2, pt 1 instead of en 2, pt 5" in capsys.readouterr().err
    assert run(recipe, "--corpus_weights", "fr=1") == 2
    assert "the corpora of" in capsys.readouterr().err

    # English alone is the first corpus: the same rows, so the same loss.
    alone = make_store(
        tmp_path / "alone",
        [f"en={golden}/inputs/en_a.txt"],
        golden / "vocab/uncased_vocab.txt",
        max_seq_length=(32,),
    )
    found = []
    for folder in (store.folder, alone.folder):
        assert exit_code(evaluate, "--checkpoint", tmp_path / "run", "--data", folder) == 0
        found.append(json.loads(capsys.readouterr().out))
    both, one = found
    assert both["mlm_loss_en"] == pytest.approx(one["mlm_loss"], rel=1e-6)
    assert both["mlm_loss_en"] != both["mlm_loss"]
    assert one["mlm_loss_en"] == one["mlm_loss"]
