"""TensorFlow's checkpoint files ("tensor bundle"), read and written without TensorFlow.

    PREFIX.index                 a table: name of a variable -> where its bytes are (sstable.py)
    PREFIX.data-00000-of-0000M   the bytes of all variables, one after the other

Source: tensorflow/core/protobuf/tensor_bundle.proto; core/util/tensor_bundle/tensor_bundle.cc.
"""

import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ds_bert.bridges.tfrecord import masked_crc32c
from ds_bert.errors import CheckpointError
from ds_bert.progress import Progress
from ds_bert.weights.sstable import make_varint, read_table, read_varint, write_table

FLOAT = 1
DTYPES = {  # of tensorflow/core/framework/types.proto
    FLOAT: torch.float32,
    2: torch.float64,
    3: torch.int32,
    9: torch.int64,
    14: torch.bfloat16,
    19: torch.float16,
}
_VARINT, _BYTES, _FIXED32 = 0, 2, 5  # wire types of protocol buffers


class Entry(NamedTuple):
    """Where a variable's bytes are and what they mean (BundleEntryProto)."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc32c: int = 0
    slices: int = 0


class TensorBundle:
    """A checkpoint for reading.

    Attributes:
        prefix: the name that its files begin with.
        num_shards: number of data files.
        entries: by name of the variable.
    """

    def __init__(self, prefix: Path) -> None:
        """Read the index.

        Raises:
            CheckpointError: a file is missing, damaged, or of a kind that is not read.
        """
        self.prefix = prefix
        path = prefix.with_name(f"{prefix.name}.index")
        table = read_table(path)
        try:
            header = dict(_fields(table.pop(b"")))
            self.num_shards = int(header.get(1, 0))
            is_big_endian = bool(header.get(2, 0))
            self.entries = {
                name.decode(errors="backslashreplace"): _entry(value)
                for name, value in table.items()
            }
        except (ValueError, LookupError, TypeError, struct.error) as error:
            raise CheckpointError(
                f"{path} is no index of a TensorFlow checkpoint ({error!r})"
            ) from None
        if is_big_endian:
            raise CheckpointError(f"{path} is of a big-endian machine, which is not read")

    def data_file(self, shard: int) -> Path:
        """The data file of that number."""
        ending = f"data-{shard:05d}-of-{self.num_shards:05d}"
        return self.prefix.with_name(f"{self.prefix.name}.{ending}")

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The named variables, in the type that they are stored in; checksums are verified.

        Raises:
            CheckpointError: a data file is missing or too short, bytes do not match their checksum,
                or a variable is of a kind that is not read.
        """
        wanted = sorted(names, key=lambda name: self.entries[name][2:4])  # as they lie on disk
        total = sum(self.entries[name].size for name in wanted)
        tensors, done = {}, 0
        with Progress("reading") as progress:
            for name in wanted:
                tensors[name] = self._read(name)
                done += self.entries[name].size
                progress.update(done / max(total, 1), B=self.entries[name].size)
        return tensors

    def _read(self, name: str) -> torch.Tensor:
        entry, path = self.entries[name], self.data_file(self.entries[name].shard)
        dtype = DTYPES.get(entry.dtype)
        if entry.slices or dtype is None:
            kind = "in slices" if entry.slices else f"as TensorFlow's type {entry.dtype}"
            raise CheckpointError(f"{self.prefix}: {name} is stored {kind}, which is not read")
        if entry.size != math.prod(entry.shape) * dtype.itemsize:
            raise CheckpointError(f"{self.prefix}: {name} has another size than its shape")
        try:
            with open(path, "rb") as file:
                file.seek(entry.offset)
                data = file.read(entry.size)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
        if len(data) < entry.size:
            raise CheckpointError(f"{path} ends inside of {name}; copy it again")
        if masked_crc32c(data) != entry.crc32c:
            raise CheckpointError(
                f"{path} is damaged: {name} does not match its checksum; copy it again"
            )
        return torch.frombuffer(bytearray(data), dtype=dtype).reshape(entry.shape)


def write_bundle(prefix: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write fp32 variables as a checkpoint of one data file.

    Args:
        prefix: the name that its files begin with; the folder is there.
        tensors: by name of the variable, on any device.
    """
    header = _varint_field(1, 1) + _bytes_field(3, _varint_field(1, 1))  # shards; version 1
    table, offset = {b"": header}, 0
    with open(prefix.with_name(f"{prefix.name}.data-00000-of-00001"), "wb") as file:
        for name in sorted(tensors):
            tensor = tensors[name].detach().to("cpu", torch.float32)
            data = tensor.numpy().tobytes()
            file.write(data)
            table[name.encode()] = _make_entry(tuple(tensor.shape), offset, data)
            offset += len(data)
    write_table(prefix.with_name(f"{prefix.name}.index"), table)


def _make_entry(shape: tuple[int, ...], offset: int, data: bytes) -> bytes:
    sizes = b"".join(_bytes_field(2, _varint_field(1, size)) for size in shape)
    place = _varint_field(4, offset) + _varint_field(5, len(data))
    checksum = make_varint(6 << 3 | _FIXED32) + struct.pack("<I", masked_crc32c(data))
    return _varint_field(1, FLOAT) + _bytes_field(2, sizes) + place + checksum


def _varint_field(number: int, value: int) -> bytes:
    """A number; 0 is what an absent field says."""
    return make_varint(number << 3 | _VARINT) + make_varint(value) if value else b""


def _bytes_field(number: int, value: bytes) -> bytes:
    return make_varint(number << 3 | _BYTES) + make_varint(len(value)) + value


def _entry(message: bytes) -> Entry:
    names = ("dtype", "shape", "shard", "offset", "size", "crc32c", "slices")
    values: dict[str, Any] = {
        names[number - 1]: value for number, value in _fields(message) if 1 <= number <= 7
    }
    if "shape" in values:  # a message of dimensions, each a message with its size
        dimensions = (value for number, value in _fields(values["shape"]) if number == 2)
        values["shape"] = tuple(dict(_fields(dimension)).get(1, 0) for dimension in dimensions)
    if "slices" in values:
        values["slices"] = 1
    return Entry(**values)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number of each field of a protocol buffer, and its value: an integer or bytes."""
    value: Any
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = read_varint(message, position)
        elif kind == _BYTES:
            length, position = read_varint(message, position)
            value = message[position : position + length]
            position += length
        elif kind == _FIXED32:
            (value,) = struct.unpack_from("<I", message, position)
            position += 4
        else:
            raise ValueError(f"a field of wire type {kind}")
        yield number, value
