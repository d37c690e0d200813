"""Batches: the right tokens, the same samples for any number of ranks, counts without talking."""

import numpy as np
import pytest
import torch
from data_util import make_store

from ds_bert.batching.packing import deal
from ds_bert.evaluation.loop import evaluation_batches
from ds_bert.instances.collate import count_masked_tokens
from ds_bert.model.batch import make_batch
from ds_bert.training.batches import TrainingBatches

LENGTH = 64
TENSORS = ("input_ids", "token_type_ids", "position_ids", "masked_lm_positions", "masked_lm_labels")


def make_table(folder, golden, **options):
    inputs = [golden / "inputs" / name for name in ("en_a.txt", "en_b.txt")]
    store = make_store(
        folder / "data",
        inputs,
        golden / "vocab/uncased_vocab.txt",
        max_seq_length=(LENGTH,),
        **options,
    )
    return store.instances(LENGTH)


KINDS = {
    "single tokens": {},
    "whole words": {"do_whole_word_mask": True},
    "spans of swapped pairs": {"masking_unit": "span", "objective": "mlm+sop"},
    "stored": {"mode": "exact", "dupe_factor": 2},
}


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.replace(" ", "_"))
def table(request, tmp_path_factory, golden):
    return make_table(tmp_path_factory.mktemp("table"), golden, **KINDS[request.param])


@pytest.fixture(scope="module")
def plain_table(tmp_path_factory, golden):
    return make_table(tmp_path_factory.mktemp("plain"), golden)


def batches(table, **options):
    defaults = {
        "train_batch_size": 8,
        "micro_batch_size": 2,
        "rank": 0,
        "world_size": 1,
        "seed": 3,
    }
    return TrainingBatches(table=table, **(defaults | options))


def expected_sequence(table, index):
    """Tokens and segment ids of a row, written down plainly."""
    row, tokens, vocabulary = table.rows[index], table.store.tokens, table.store.vocabulary
    a, b = (
        tokens[int(row[f"{x}_start"]) : int(row[f"{x}_start"]) + int(row[f"{x}_length"])].tolist()
        for x in "ab"
    )
    cls, sep = [vocabulary.cls_id], [vocabulary.sep_id]
    return cls + a + sep + b + sep, [0] * (len(a) + 2) + [1] * (len(b) + 1)


def test_a_batch_holds_its_rows_and_its_masks(table):
    indices = np.arange(len(table))
    batch = make_batch(table, indices, np.zeros_like(indices), seed=1)
    labels = dict(
        zip(batch.masked_lm_positions.tolist(), batch.masked_lm_labels.tolist(), strict=True)
    )
    restored = batch.input_ids.clone()
    restored[batch.masked_lm_positions] = batch.masked_lm_labels.int()
    place = 0
    for index, length in enumerate(batch.sequence_lengths):
        ids, segments = expected_sequence(table, index)
        part = slice(place, place + length)
        assert restored[part].tolist() == ids
        assert batch.token_type_ids[part].tolist() == segments
        assert batch.position_ids[part].tolist() == list(range(length))
        assert batch.next_sentence_labels[index] == table.rows[index]["is_random_next"]
        place += length
    assert batch.cu_seqlens.tolist() == np.cumsum([0, *batch.sequence_lengths]).tolist()
    assert len(labels) == len(batch.masked_lm_labels)
    special = {table.store.vocabulary.cls_id, table.store.vocabulary.sep_id}
    assert not special & set(labels.values())
    assert (batch.input_ids != restored).any()


def test_counts_are_known_beforehand(table):
    indices = np.arange(len(table))[::-1].copy()
    epochs = np.arange(len(table)) % 3
    found = len(make_batch(table, indices, epochs, seed=1).masked_lm_labels)
    assert count_masked_tokens(table, indices, epochs, seed=1) == found


def test_stored_masks_are_taken_as_they_are(tmp_path, golden):
    table = make_table(tmp_path, golden, **KINDS["stored"])
    batch = make_batch(table, np.array([5]), np.array([0]), seed=1)
    first, last = (int(offset) for offset in table.masks.offsets[5:7])
    assert batch.masked_lm_positions.tolist() == table.masks.positions[first:last].tolist()
    found = batch.input_ids[batch.masked_lm_positions]
    assert found.tolist() == table.masks.replacements[first:last].tolist()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_a_step_without_overlap(table, world_size):
    whole = batches(table).step(16)
    parts = [batches(table, rank=r, world_size=world_size).step(16) for r in range(world_size)]
    micro_batches = [batch for part in parts for batch in part.micro_batches]
    for name in TENSORS:
        together = [getattr(b, name) for b in micro_batches]
        assert torch.equal(
            torch.cat(together), torch.cat([getattr(b, name) for b in whole.micro_batches])
        )
    masked = sum(len(batch.masked_lm_labels) for batch in micro_batches)
    assert [part.counts for part in parts] == [{"sequences": 8, "masked_tokens": masked}] * len(
        parts
    )


@pytest.mark.parametrize("world_size", [1, 2])
def test_packed_steps_hold_the_same_sequences(table, world_size):
    def sequences(packed):
        steps = [
            batches(table, rank=r, world_size=world_size, micro_batch_size=2, packed=packed).step(8)
            for r in range(world_size)
        ]
        micro_batches = [batch for step in steps for batch in step.micro_batches]
        assert {batch.num_sequences for batch in micro_batches} == {2}
        assert {step.counts["masked_tokens"] for step in steps} == {
            sum(len(batch.masked_lm_labels) for batch in micro_batches)
        }
        found = [
            (*batch.input_ids[first:last].tolist(), label)
            for batch in micro_batches
            for first, last, label in zip(
                batch.cu_seqlens, batch.cu_seqlens[1:], batch.next_sentence_labels, strict=False
            )
        ]
        return micro_batches, sorted(found)

    (plain, expected), (packed, found) = sequences(False), sequences(True)
    assert found == expected
    assert spread(packed) <= spread(plain)
    for batch in packed:
        assert len(batch.input_ids) % 128 == 0
        assert batch.cu_seqlens[-1] == len(batch.input_ids)
        assert batch.num_tokens in batch.cu_seqlens[-2:], "padding is a sequence, if there is any"


def spread(micro_batches):
    return np.ptp([batch.num_tokens for batch in micro_batches])


def test_lengths_are_dealt_out_evenly():
    lengths = np.random.default_rng(1).integers(5, 513, 64 * 8)
    dealt = deal(lengths, 8)
    assert sorted(np.concatenate(dealt)) == list(range(64 * 8))
    assert {len(each) for each in dealt} == {64}
    sums = np.array([lengths[each].sum() for each in dealt])
    assert np.ptp(sums) < 0.01 * sums.mean()
    assert np.ptp(lengths.reshape(8, 64).sum(1)) > 0.05 * sums.mean()


def test_an_epoch_holds_every_row_once(plain_table):
    n = len(plain_table)
    order = batches(plain_table, train_batch_size=n, micro_batch_size=n)
    for epoch in range(2):
        indices, epochs = order._locate(epoch * n)
        assert sorted(indices.tolist()) == list(range(n))
        assert set(epochs.tolist()) == {epoch}
    assert order._locate(0)[0].tolist() != order._locate(n)[0].tolist()


def test_a_step_across_two_epochs(plain_table):
    n = len(plain_table)
    order = batches(plain_table, train_batch_size=8)
    indices, epochs = order._locate(n - 3)
    assert epochs.tolist() == [0] * 3 + [1] * 5
    assert indices[3:].tolist() == order._locate(n)[0][:5].tolist()


@pytest.mark.parametrize(("masking", "same"), [("dynamic", False), ("static", True)])
def test_masks_of_a_row_in_two_epochs(plain_table, masking, same):
    n = len(plain_table)
    order = batches(plain_table, train_batch_size=n, micro_batch_size=n, masking=masking)
    found = []
    for epoch in range(2):
        (indices, _), step = order._locate(epoch * n), order.step(epoch * n)
        row = indices.tolist().index(4)
        batch = step.micro_batches[0]
        first, last = batch.cu_seqlens[row], batch.cu_seqlens[row + 1]
        found.append(batch.input_ids[first:last].tolist())
    assert (found[0] == found[1]) is same


def test_iterating_is_the_steps_in_turn(plain_table):
    order = batches(plain_table)
    with order.iterate(8) as steps:
        for number in range(1, 5):
            found, expected = next(steps), order.step(8 * number)
            for one, other in zip(found.micro_batches, expected.micro_batches, strict=True):
                assert torch.equal(one.input_ids, other.input_ids)


def test_an_error_in_the_background_reaches_the_caller(plain_table, monkeypatch):
    def broken(self, *_):
        raise OSError("disk gone")

    monkeypatch.setattr(TrainingBatches, "step", broken)
    with batches(plain_table).iterate(0) as steps, pytest.raises(OSError, match="disk gone"):
        next(steps)


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 4), (2, 3), (3, 1)])
@pytest.mark.parametrize("max_sequences", [None, 10])
def test_evaluation_sees_the_same_for_any_split(table, world_size, micro_batch_size, max_sequences):
    def sequences(world_size, micro_batch_size):
        return sorted(
            batch.input_ids[first:last].tolist()
            for rank in range(world_size)
            for batch in evaluation_batches(
                table, micro_batch_size=micro_batch_size, rank=rank, world_size=world_size,
                seed=5, max_sequences=max_sequences
            )
            for first, last in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)
        )  # fmt: skip

    found = sequences(world_size, micro_batch_size)
    assert found == sequences(1, 1000)
    assert len(found) == (max_sequences or len(table))
