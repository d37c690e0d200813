"""Damaged rows, tokens and masks are refused; compiled code never reads outside its arrays."""

from dataclasses import replace

import numpy as np
import pytest
from data_util import make_store

from ds_bert.errors import DataError
from ds_bert.instances.collate import collate


@pytest.fixture(scope="module")
def tables(tmp_path_factory, golden, vocab_file):
    folder, text = tmp_path_factory.mktemp("damage"), golden / "inputs/en_a.txt"
    kinds = {
        "fast": {},
        "words": {"do_whole_word_mask": True},
        "span": {"masking_unit": "span", "objective": "mlm+sop"},
        "exact": {"mode": "exact"},
        "mlm": {"objective": "mlm"},
    }
    return {
        name: make_store(folder / name, text, vocab_file, max_seq_length=(32,), **kind).instances(
            32
        )
        for name, kind in kinds.items()
    }


def batch(table):
    rows = np.arange(len(table))
    return collate(table, rows, np.zeros_like(rows), seed=1)


def with_row(table, number, **values):
    rows = np.array(table.rows)
    for name, value in values.items():
        rows[name][number] = value
    return replace(table, rows=rows)


def test_sound_tables_pass(tables):
    for table in tables.values():
        assert len(batch(table).cu_seqlens) == len(table) + 1


@pytest.mark.parametrize("kind", ["fast", "exact", "words", "span", "mlm"])
@pytest.mark.parametrize(
    "values",
    [
        {"a_start": 1 << 63},  # as each of these: one bit
        {"a_start": 1 << 20},
        {"b_start": 2**64 - 1},
        {"a_length": 543},
        {"a_length": 0},
        {"b_length": 1 << 15},
    ],
)
def test_a_flipped_bit_of_a_row(tables, kind, values):
    with pytest.raises(DataError, match=r"seq32/instances\.npy: row 3 cannot be right"):
        batch(with_row(tables[kind], 3, **values))


def test_every_single_bit_of_a_row(tables):
    """What is accepted is a sequence of this table: inside of the tokens, not too long."""
    table = tables["fast"]
    refused = 0
    for bit in range(22 * 8):  # all fields but is_random_next and the reserve
        rows = np.array(table.rows[:4])
        rows.view(np.uint8).reshape(4, -1)[2, bit // 8] ^= 1 << bit % 8
        if np.array_equal(rows, table.rows[:4]):
            continue
        try:
            found = batch(replace(table, rows=rows))
        except DataError:
            refused += 1
            continue
        assert found.cu_seqlens[-1] <= 4 * 32
        row = rows[2]
        for start, length in (("a_start", "a_length"), ("b_start", "b_length")):
            assert int(row[start]) + int(row[length]) <= len(table.store.tokens)
    assert refused > 100


@pytest.mark.parametrize("kind", ["fast", "exact", "words", "span", "mlm"])
def test_a_token_that_is_no_id(tables, kind):
    table = tables[kind]
    tokens = np.array(table.store.tokens)
    tokens[int(table.rows[0]["a_start"])] |= 1 << 15
    documents = table.store.documents._replace(tokens=tokens)
    with pytest.raises(DataError, match=r"tokens\.npy: token id 3.,... of 1,500 cannot be right"):
        batch(replace(table, store=replace(table.store, documents=documents)))


@pytest.mark.parametrize(("field", "bit"), [("offsets", 40), ("offsets", 14), ("positions", 15)])
def test_a_flipped_bit_of_stored_masks(tables, field, bit):
    table = tables["exact"]
    items = np.array(getattr(table.masks, field))
    items[2] ^= items.dtype.type(1 << bit)
    with pytest.raises(DataError, match=rf"seq32/masked_{field}\.npy"):
        batch(replace(table, masks=table.masks._replace(**{field: items})))
