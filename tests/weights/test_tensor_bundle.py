"""TensorFlow's checkpoint files: read as documented, every damage noticed, written alike."""

import numpy as np
import pytest
import torch
from weights_util import crc32c, table, write_bundle

from ds_bert.bridges.tfrecord import masked_crc32c
from ds_bert.errors import CheckpointError
from ds_bert.weights import tensor_bundle
from ds_bert.weights.sstable import make_varint, read_table, read_varint, write_table
from ds_bert.weights.tensor_bundle import TensorBundle

ENTRIES = [(f"layer_{n:03d}/{'kernel' * (n % 3)}".encode(), bytes([n]) * n) for n in range(90)]


@pytest.fixture
def variables():
    random = np.random.default_rng(5)
    shapes = {
        "a/kernel": (3, 4),
        "a/kernel/adam_m": (3, 4),
        "b": (7,),
        "scalar": (),
        "long": (300,),
    }
    result = {name: random.normal(size=shape).astype("<f4") for name, shape in shapes.items()}
    return result | {"global_step": np.array(20, "<i8")}


def assert_equal(bundle, variables):
    assert set(bundle.entries) == set(variables)
    for name, tensor in bundle.read(variables).items():
        expected = torch.from_numpy(variables[name])
        assert tensor.dtype == expected.dtype and torch.equal(tensor, expected)


def test_checksums():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the Castagnoli polynomial
    crc = 0xE3069283
    masked = (crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF
    assert masked_crc32c(b"123456789") == masked


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63 + 5])
def test_varints(value):
    assert read_varint(make_varint(value), 0) == (value, len(make_varint(value)))


@pytest.mark.parametrize("per_block", [1, 7, 10**6])
@pytest.mark.parametrize("restart_every", [1, 16])
@pytest.mark.parametrize("compress", [False, True])
def test_tables_of_any_layout(tmp_path, per_block, restart_every, compress):
    path = tmp_path / "table"
    path.write_bytes(table(ENTRIES, per_block, restart_every, compress))
    assert list(read_table(path).items()) == ENTRIES


def test_written_tables_are_byte_for_byte_as_documented(tmp_path):
    write_table(tmp_path / "table", dict(reversed(ENTRIES)))
    assert (tmp_path / "table").read_bytes() == table(ENTRIES)


def test_every_byte_of_a_table_counts(tmp_path):
    content = table(ENTRIES[:6], per_block=3)
    path = tmp_path / "table"
    padding = range(len(content) - 48 + len(content[-48:-8].rstrip(b"\0")), len(content) - 8)
    for position in range(len(content)):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]
        )
        if position in padding:  # of the footer: nobody looks at it
            assert list(read_table(path).items()) == ENTRIES[:6]
        else:
            with pytest.raises(CheckpointError, match="table is damaged, or no index"):
                read_table(path)


def test_a_table_that_ends_anywhere(tmp_path):
    content, path = table(ENTRIES[:6]), tmp_path / "table"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="table is damaged, or no index"):
            read_table(path)


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("compress", [False, True])
def test_reading(tmp_path, variables, num_shards, compress):
    bundle = TensorBundle(write_bundle(tmp_path, variables, num_shards, compress=compress))
    assert bundle.num_shards == num_shards
    assert_equal(bundle, variables)


def test_writing_is_byte_for_byte_as_documented(tmp_path, variables):
    del variables["global_step"]
    prefix = write_bundle(tmp_path, variables)
    tensors = {name: torch.from_numpy(value) for name, value in variables.items()}
    tensor_bundle.write_bundle(tmp_path / "ours", tensors)
    for ending in ("index", "data-00000-of-00001"):
        theirs = prefix.with_name(f"{prefix.name}.{ending}").read_bytes()
        assert (tmp_path / f"ours.{ending}").read_bytes() == theirs
    assert_equal(TensorBundle(tmp_path / "ours"), variables)


def test_damaged_data(tmp_path, variables):
    prefix = write_bundle(tmp_path, variables, num_shards=2)
    path = tmp_path / f"{prefix.name}.data-00001-of-00002"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(
        CheckpointError, match=r"00001-of-00002 is damaged: .* not match its checksum"
    ):
        TensorBundle(prefix).read(variables)
    path.write_bytes(whole[:-3])
    with pytest.raises(CheckpointError, match="00001-of-00002 ends inside of"):
        TensorBundle(prefix).read(variables)
    path.unlink()
    with pytest.raises(CheckpointError, match="00001-of-00002: cannot be read"):
        TensorBundle(prefix).read(variables)


def test_what_is_left_out_is_not_read(tmp_path, variables):
    """Moments are two thirds of a checkpoint."""
    prefix = write_bundle(tmp_path, variables, num_shards=2)
    (tmp_path / f"{prefix.name}.data-00001-of-00002").unlink()
    bundle = TensorBundle(prefix)
    first = [name for name, entry in bundle.entries.items() if entry.shard == 0]
    assert 0 < len(first) < len(variables)
    assert set(bundle.read(first)) == set(first)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (b"\x08\x07", "type 7, which is not read"),  # strings
        (b"\x08\x01\x3a\x02\x0a\x00", "stored in slices"),
        (b"\x08\x01\x12\x04\x12\x02\x08\x03\x28\x04", "another size than its shape"),
    ],
)
def test_what_is_not_read(tmp_path, entry, message):
    path = tmp_path / "x.index"
    path.write_bytes(table([(b"", b"\x08\x01"), (b"odd", entry)]))
    with pytest.raises(CheckpointError, match=message):
        TensorBundle(tmp_path / "x").read(["odd"])


def test_other_machines_and_other_tables(tmp_path):
    (tmp_path / "x.index").write_bytes(table([(b"", b"\x08\x01\x10\x01")]))
    with pytest.raises(CheckpointError, match="big-endian"):
        TensorBundle(tmp_path / "x")
    (tmp_path / "x.index").write_bytes(table([(b"key", b"value")]))
    with pytest.raises(CheckpointError, match="no index of a TensorFlow checkpoint"):
        TensorBundle(tmp_path / "x")


def test_a_checkpoint_of_tensorflow_itself(golden):
    """Three shards, names that share long beginnings (tests/golden/README.md)."""
    bundle = TensorBundle(golden / "tensorflow/model.ckpt-20")
    tensors = bundle.read(bundle.entries)
    assert bundle.num_shards == 3 and len(tensors) == 42
    assert tensors["global_step"].item() == 20 and tensors["global_step"].dtype == torch.int64
    assert tensors["half"].dtype == torch.float16
    assert tensors["half"].tolist() == [[1, 2], [3, 0.5]]
    for number in range(40):
        found = tensors[f"bert/encoder/layer_{number}/output/dense/bias"]
        assert found.tolist() == [place / 8 - number for place in range(number % 4 + 1)]
