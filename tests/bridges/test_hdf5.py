"""NVIDIA's HDF5 files as their scripts make them, and what damages them."""

import numpy as np
import pytest
from bridges_util import as_examples, golden_examples

from ds_bert.bridges.exporting import export
from ds_bert.bridges.importing import ImportOptions, import_data_set
from ds_bert.dataset.store import TokenStore
from ds_bert.errors import DataError

h5py = pytest.importorskip("h5py", reason="needs h5py (extra hdf5)")
LENGTH, MOST = 64, 10
DTYPES = {
    "input_ids": "i4",
    "input_mask": "i1",
    "segment_ids": "i1",
    "masked_lm_positions": "i4",
    "masked_lm_ids": "i4",
    "next_sentence_labels": "i1",
}


@pytest.fixture
def arrays(golden_record, vocabulary):
    """The golden instances, padded row by row."""
    rows = {name: [] for name in DTYPES}
    for each in golden_examples(golden_record):
        length, count = len(each["tokens"]), len(each["masked_lm_positions"])
        lists = (
            [vocabulary.ids[token] for token in each["tokens"]] + [0] * (LENGTH - length),
            [1] * length + [0] * (LENGTH - length),
            each["segment_ids"] + [0] * (LENGTH - length),
            each["masked_lm_positions"] + [0] * (MOST - count),
            [vocabulary.ids[label] for label in each["masked_lm_labels"]] + [0] * (MOST - count),
            int(each["is_random_next"]),
        )
        for name, values in zip(rows, lists, strict=True):
            rows[name].append(values)
    return {name: np.array(values, DTYPES[name]) for name, values in rows.items()}


def save(path, arrays, **more):
    """As NVIDIA's create_pretraining_data.py does."""
    with h5py.File(path, "w") as file:
        for name, items in (arrays | more).items():
            if items is not None:
                file.create_dataset(name, data=items, dtype=items.dtype, compression="gzip")


def save_variable(path, arrays):
    """As the scripts of MLPerf do, labels as lists of one."""
    lengths, counts = arrays["input_mask"].sum(1), (arrays["masked_lm_positions"] > 0).sum(1)
    sizes = {"input_ids": lengths, "segment_ids": lengths, "masked_lm_positions": counts}
    sizes |= {"masked_lm_ids": counts, "next_sentence_labels": np.ones_like(counts)}
    with h5py.File(path, "w") as file:
        for name, numbers in sizes.items():
            rows = arrays[name].reshape(len(lengths), -1)
            kind = h5py.vlen_dtype(np.dtype("int16"))
            items = file.create_dataset(name, (len(rows),), dtype=kind)
            for row, number in enumerate(numbers):
                items[row] = rows[row, :number]


def imported(path, tmp_path, vocabulary, **options):
    import_data_set([path], tmp_path / "imported", vocabulary, ImportOptions(**options))
    return TokenStore.open(tmp_path / "imported")


@pytest.mark.parametrize("write", [save, save_variable])
def test_files_of_nvidia(write, arrays, golden_table, tmp_path, vocabulary):
    write(tmp_path / "x.hdf5", arrays)
    found = imported(tmp_path / "x.hdf5", tmp_path, vocabulary).instances(LENGTH)
    assert found.max_predictions_per_seq == MOST
    assert as_examples(found) == as_examples(golden_table)


def test_ours_is_nvidias(arrays, golden_table, tmp_path):
    export(golden_table.store, None, "hdf5", [tmp_path / "x.hdf5"])
    with h5py.File(tmp_path / "x.hdf5") as file:
        assert set(file) == set(arrays)
        for name, items in arrays.items():
            assert file[name].dtype == DTYPES[name]
            assert np.array_equal(file[name], items)


def changed(name, row, values):
    def change(arrays):
        items = arrays[name].copy()
        items[row, : len(values)] = values
        return {name: items}

    return change


NAMED = {
    "id": (changed("input_ids", 7, [2, 1500]), "expected token ids from 0 to below 1,500"),
    "negative": (changed("input_ids", 7, [2, -5]), "expected token ids"),
    "mask": (changed("input_mask", 7, [0]), "expected a mask of ones"),
    "position": (changed("masked_lm_positions", 7, [63]), "expected ascending masked positions"),
    "hole": (changed("masked_lm_positions", 7, [1, 0]), "expected a mask of ones"),
    "segment": (changed("segment_ids", 7, [0, 0, 0, 1, 0]), "expected segment ids of 0 up to"),
}


@pytest.mark.parametrize("kind", NAMED)
def test_damaged_rows_are_named_and_left_out(kind, arrays, tmp_path, vocabulary):
    change, problem = NAMED[kind]
    save(tmp_path / "x.hdf5", arrays, **change(arrays))
    with pytest.raises(DataError, match=f"x.hdf5, row 8: {problem}"):
        imported(tmp_path / "x.hdf5", tmp_path, vocabulary)
    store = imported(tmp_path / "x.hdf5", tmp_path, vocabulary, skip_damaged=True)
    assert len(store.instances(LENGTH)) == len(arrays["input_ids"]) - 1


REFUSED = {
    "absent": ({"segment_ids": None}, "expected input_ids, segment_ids"),
    "fewer": (
        {"next_sentence_labels": np.zeros(3, "i1")},
        "3 next_sentence_labels, .* expected",
    ),
    "packed": ({"packed_input_len": np.zeros(3, "i1")}, "holds packed sequences"),
    "fractions": ({"input_ids": np.zeros((114, 64), "f4")}, "input_ids is float32"),
    "one row": ({"input_ids": np.zeros(114, "i4")}, "expected integers"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_files_are_refused(kind, arrays, tmp_path, vocabulary):
    change, problem = REFUSED[kind]
    save(tmp_path / "x.hdf5", arrays, **change)
    with pytest.raises(DataError, match=problem):
        imported(tmp_path / "x.hdf5", tmp_path, vocabulary)


def test_damaged_bytes(arrays, tmp_path, vocabulary):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        for name, items in arrays.items():
            file.create_dataset(name, data=items, chunks=(10, *items.shape[1:]), compression="gzip")
        chunk = file["input_ids"].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 20 : chunk.byte_offset + 40] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x.hdf5, row 21: it cannot be read \("):
        imported(path, tmp_path, vocabulary)
    store = imported(path, tmp_path, vocabulary, skip_damaged=True)
    assert store.meta["left_out"]["number"] == 10
    assert len(store.instances(LENGTH)) == len(arrays["input_ids"]) - 10
    path.write_bytes(content[:5000])
    with pytest.raises(DataError, match="damaged or no HDF5"):
        imported(path, tmp_path / "cut", vocabulary)
