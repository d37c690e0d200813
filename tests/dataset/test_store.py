"""Opening a data set: whatever is wrong with it is said at once, by the name of the file."""

import json
import shutil

import numpy as np
import pytest
from data_util import exit_code, make_store, synthetic_text

from ds_bert.dataset.npy import BLOCK_BYTES, NpyWriter, damaged_block
from ds_bert.dataset.store import TokenStore
from ds_bert.errors import DataError

ARRAYS = ["tokens", "sentence_ends", "document_token_offsets", "document_sentence_offsets"]
INSTANCE_ARRAYS = ["instances", "masked_positions", "masked_replacements", "masked_offsets"]
FILES = [f"{name}.npy" for name in ARRAYS + [f"seq32/{name}" for name in INSTANCE_ARRAYS]]


@pytest.fixture(scope="module")
def original(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    (folder / "text.txt").write_text(synthetic_text(20))
    vocab_file = golden / "vocab" / "uncased_vocab.txt"
    make_store(folder / "train", folder / "text.txt", vocab_file, mode="exact", max_seq_length=[32])
    return folder / "train"


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "train")


def open_all(folder):
    store = TokenStore.open(folder)
    return [store.instances(length) for length in store.sequence_lengths]


def change_meta(folder, change):
    meta = json.loads((folder / "meta.json").read_text())
    change(meta)
    (folder / "meta.json").write_text(json.dumps(meta))


def test_sound_data_set(folder, inspect_data, capsys):
    assert exit_code(inspect_data, folder, "--verify") == 0
    assert "8 files checked" in capsys.readouterr().out
    assert [file for file in FILES if not (folder / file).exists()] == []


def test_arrays_open_with_numpy_alone(folder):
    for file in FILES:
        assert len(np.load(folder / file, mmap_mode="r", allow_pickle=False)) > 0


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("num_bytes", [-1, 1, -(10**9)])
def test_truncated_or_longer_file(folder, file, num_bytes):
    data = (folder / file).read_bytes()
    data = data[:num_bytes] if num_bytes < 0 else data + b"\0"
    (folder / file).write_bytes(data)
    with pytest.raises(DataError, match=file):
        open_all(folder)


@pytest.mark.parametrize("file", FILES)
def test_missing_file(folder, file):
    (folder / file).unlink()
    with pytest.raises(DataError, match=file):
        open_all(folder)


@pytest.mark.parametrize("file", FILES)
def test_foreign_file_of_the_same_size(folder, file):
    size = (folder / file).stat().st_size
    (folder / file).write_bytes(b"x" * size)
    with pytest.raises(DataError, match=file):
        open_all(folder)


@pytest.mark.parametrize("file", FILES)
def test_flipped_bit_is_found_by_verify(folder, file, inspect_data, capsys):
    data = bytearray((folder / file).read_bytes())
    data[-9] ^= 4
    (folder / file).write_bytes(data)
    assert exit_code(inspect_data, folder, "--verify") == 3
    assert file in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokens", lambda items: 65_535),
        ("sentence_ends", lambda items: items[0] + 1000),
        ("document_token_offsets", lambda items: items[2]),
        ("seq32/masked_positions", lambda items: 0),
        ("seq32/masked_replacements", lambda items: 65_535),
        ("seq32/masked_offsets", lambda items: 2**40),
    ],
)
def test_wrong_number_with_a_right_checksum_is_found(folder, file, change, inspect_data, capsys):
    items = np.load(folder / f"{file}.npy")
    items[1] = change(items)
    rewrite(folder, file, items)
    assert exit_code(inspect_data, folder, "--verify") == 3
    assert f"{file}.npy: expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value"),
    [("a_start", 2**50), ("b_start", 2**64 - 1), ("a_length", 0), ("b_length", 30)],
)
def test_wrong_row_with_a_right_checksum_is_found(folder, field, value, inspect_data, capsys):
    rows = np.load(folder / "seq32/instances.npy")
    rows[field][5] = value
    rewrite(folder, "seq32/instances", rows)
    assert exit_code(inspect_data, folder, "--verify") == 3
    assert "instances.npy: expected" in capsys.readouterr().err


def rewrite(folder, file, items):
    (folder / f"{file}.npy").unlink()
    with NpyWriter(folder / f"{file}.npy", items.dtype) as writer:
        writer.append(items)
        record = writer.close()
    change_meta(folder, lambda meta: meta["files"].update({f"{file}.npy": record}))


def test_other_vocabulary(folder, golden):
    shutil.copy(golden / "vocab" / "cased_vocab.txt", folder / "vocab.txt")
    with pytest.raises(DataError, match="is not the vocabulary of this data set"):
        open_all(folder)


def test_length_that_is_not_there(folder, inspect_data, capsys):
    with pytest.raises(DataError, match=r"only of 32; run .*--max_seq_length 512"):
        TokenStore.open(folder).instances(512)
    assert exit_code(inspect_data, folder, "--max_seq_length", 512) == 3
    assert "error: " in capsys.readouterr().err


def test_unfinished_data_set(folder, inspect_data, capsys):
    (folder / "meta.json").unlink()
    assert exit_code(inspect_data, folder) == 3
    assert "not a finished data set" in capsys.readouterr().err


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="not a finished data set"):
        TokenStore.open(tmp_path / "absent")


def test_newer_format(folder):
    change_meta(folder, lambda meta: meta.update(version=2))
    with pytest.raises(DataError, match="format version 2"):
        open_all(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "something"}'])
def test_other_metadata(folder, text):
    (folder / "meta.json").write_text(text)
    with pytest.raises(DataError, match=r"meta\.json"):
        open_all(folder)


@pytest.mark.parametrize("key", ["counts", "vocabulary", "lengths", "files"])
@pytest.mark.parametrize("value", [None, {}, 3, "x"])
def test_damaged_metadata(folder, key, value):
    change_meta(folder, lambda meta: meta.update({key: value}))
    with pytest.raises(DataError):
        store = TokenStore.open(folder)
        store.instances(32)


def test_checksums_of_several_blocks(tmp_path):
    items = np.arange(BLOCK_BYTES // 4 + 1000, dtype=np.uint32)
    with NpyWriter(tmp_path / "items.npy", items.dtype) as writer:
        for start in range(0, len(items), 1_000_003):
            writer.append(items[start : start + 1_000_003])
        record = writer.close()
    assert len(record["crc32"]) == 2
    found = np.load(tmp_path / "items.npy", mmap_mode="r")
    assert np.array_equal(found, items)
    assert damaged_block(np.asarray(found), record["crc32"]) is None
    items[-1] += 1
    assert damaged_block(items, record["crc32"]) == 1
    assert damaged_block(items[:-1000], record["crc32"]) == 1
