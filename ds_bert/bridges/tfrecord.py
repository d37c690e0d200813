"""Google's TFRecord files: Examples in frames with checksums, read and written without TensorFlow.

A frame is the length of its data (8 bytes, little-endian), the masked CRC-32C of these 8 bytes (4
bytes), the data, and the masked CRC-32C of the data.

Source: tensorflow/core/lib/io/record_writer.h, core/lib/hash/crc32c.h (`Mask`).
"""

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import google_crc32c
import numpy as np

from ds_bert.bridges.columns import Columns, Lists, ones_at_front, padded
from ds_bert.bridges.example import FEATURES, decode, encode
from ds_bert.bridges.formats import BEYOND, InstanceFile, InstanceWriter, Piece, Place, open_at
from ds_bert.dataset.store import InstanceTable
from ds_bert.instances.collate import BatchArrays
from ds_bert.text.streams import plain_bytes

_BLOCK_BYTES = 1 << 18  # read at once
_MAX_BYTES = 1 << 26  # of a record; a longer one is a damaged length
_HEAD, _FOOT = struct.Struct("<QI"), struct.Struct("<I")
_DELTA = 0xA282EAD8


def masked_crc(data: bytes) -> int:
    """CRC-32C of some bytes as it stands in a file: rotated, plus a constant."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _DELTA) & 0xFFFFFFFF


class File(InstanceFile):
    """A file of TFRecords, perhaps compressed as a whole (.gz)."""

    format = "tfrecord"

    @staticmethod
    def begins_with(head: bytes) -> bool:
        """The length of a record, and the checksum of that."""
        if len(head) < _HEAD.size:
            return False
        return _HEAD.unpack_from(head)[1] == masked_crc(head[:8])

    def size(self) -> int:
        """Bytes; of a compressed file about."""
        return plain_bytes(self.path)

    def pieces(self, place: Place) -> Iterator[Piece]:
        """A quarter of a megabyte at a time."""
        offset, number = place
        rest = b""
        with open_at(self.path, offset) as stream:
            is_end = False
            while not is_end:
                block = stream.read(_BLOCK_BYTES)
                is_end = not block
                data = rest + block
                frames = _Frames(data, is_end)
                if frames.starts:
                    offset = BEYOND if frames.is_lost else offset + frames.end
                    number += len(frames.starts)
                    yield _piece(data, frames, Place(offset, number))
                rest = data[frames.end :]
                is_end |= frames.is_lost


class _Frames:
    """Where the records in some bytes are, and what is wrong with them.

    Attributes:
        starts: first byte of the data of each.
        ends: the byte behind.
        problems: by number of the record in these bytes.
        end: bytes that are used up.
        is_lost: whether nobody can tell where the next record begins.
    """

    def __init__(self, data: bytes, is_end: bool) -> None:
        """Look at all records that the bytes hold as a whole.

        Args:
            data: bytes of a file, from the beginning of a record on.
            is_end: whether the file ends with them.
        """
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.problems: dict[int, str] = {}
        self.end, self.is_lost = 0, False
        while self.end + _HEAD.size <= len(data) and not self.is_lost:
            length, crc = _HEAD.unpack_from(data, self.end)
            start = self.end + _HEAD.size
            if crc != masked_crc(data[self.end : self.end + 8]) or length > _MAX_BYTES:
                self._lose(len(data), "the checksum of its length is wrong")
            elif start + length + _FOOT.size <= len(data):
                self._add(data, start, start + length)
            else:
                break
        if is_end and self.end < len(data) and not self.is_lost:
            self._lose(len(data), "the file ends inside of it")

    def _add(self, data: bytes, start: int, end: int) -> None:
        if _FOOT.unpack_from(data, end)[0] != masked_crc(data[start:end]):
            self.problems[len(self.starts)] = "the checksum of its data is wrong"
        self.starts.append(start)
        self.ends.append(end)
        self.end = end + _FOOT.size

    def _lose(self, end: int, problem: str) -> None:
        self.problems[len(self.starts)] = f"{problem}; nothing behind that place can be read"
        self.starts.append(self.end)
        self.ends.append(self.end)
        self.end, self.is_lost = end, True


def _piece(data: bytes, frames: _Frames, place: Place) -> Piece:
    starts, ends = np.array(frames.starts, np.int64), np.array(frames.ends, np.int64)
    bad = list(frames.problems)
    ends[bad] = starts[bad]
    values, first, counts, sound = decode(np.frombuffer(data, np.uint8), starts, ends)
    problems = dict(frames.problems)
    for row in np.flatnonzero(~sound):
        problems.setdefault(int(row), "its data are no tf.train.Example")
    found = {
        name: Lists(values, first[number], counts[number]) for number, name in enumerate(FEATURES)
    }
    for row in np.flatnonzero((counts < 0).any(axis=0)):
        lacking = ", ".join(name for name in FEATURES if found[name].counts[row] < 0)
        problems.setdefault(int(row), f"it lacks {lacking}, features of Google's script")
    labels = found["next_sentence_labels"]
    for row in np.flatnonzero(labels.counts != 1):
        problems.setdefault(int(row), "expected one number in next_sentence_labels")
    columns = Columns(
        found["input_ids"],
        found["segment_ids"],
        ones_at_front(found["input_mask"]),
        found["masked_lm_positions"],
        found["masked_lm_ids"],
        ones_at_front(found["masked_lm_weights"]),
        values[np.where(labels.counts == 1, labels.starts, 0)] if len(values) else labels.starts,
    )
    first_number = place.number - len(starts) + 1
    return Piece(columns, np.arange(first_number, place.number + 1), problems, place)


class Writer(InstanceWriter):
    """The records that Google's script would write."""

    def __init__(self, path: Path, table: InstanceTable, num_rows: int, final: Path) -> None:
        """Open the file."""
        super().__init__(path, table, num_rows, final)
        self._file = path.open("wb")

    def write(self, batch: BatchArrays) -> None:
        """Append some instances, padded."""
        arrays = padded(batch, self.table.max_seq_length, self.table.max_predictions_per_seq)
        data, ends = encode(arrays)
        content, bounds = data.tobytes(), ends.tolist()
        parts = []
        for start, end in pairwise(bounds):
            message = content[start:end]
            length = struct.pack("<Q", end - start)
            parts += [
                length,
                _FOOT.pack(masked_crc(length)),
                message,
                _FOOT.pack(masked_crc(message)),
            ]
        self._file.write(b"".join(parts))

    def close(self) -> None:
        """Complete the file."""
        self._file.close()
