"""One-dimensional `.npy` files, written by appending and read as memory maps."""

import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from ds_bert.errors import DataError

BLOCK_BYTES = 64 * 2**20  # of array data under one checksum
HEADER_BYTES = 256  # numpy allows any multiple of 64; fixed, so that it can be filled in last
_MAGIC = b"\x93NUMPY\x01\x00"


class NpyWriter:
    """Appends arrays to an `.npy` file whose length is not known beforehand."""

    def __init__(self, path: Path, dtype: np.dtype, record: dict[str, Any] | None = None) -> None:
        """Create the file; it becomes readable when `close` has written its header.

        Args:
            path: where; a file there is replaced.
            dtype: of the items.
            record: from `sync`; go on with the file as it was then.

        Raises:
            DataError: the file is gone or shorter than the record says.
        """
        self.path, self.dtype = path, dtype
        self.num_items = 0
        self._checksums: list[int] = []
        if record is None:
            self._file: BinaryIO = path.open("wb")
            self._file.write(bytes(HEADER_BYTES))
        else:
            self._go_on(record)

    def _go_on(self, record: dict[str, Any]) -> None:
        num_bytes = record["bytes"]
        if not self.path.is_file() or self.path.stat().st_size < num_bytes:
            raise DataError(
                f"{self.path} is shorter than the {num_bytes:,} bytes recorded, so the "
                "unfinished work is lost; run the same command again to begin anew"
            )
        self.num_items = (num_bytes - HEADER_BYTES) // self.dtype.itemsize
        self._checksums = [int(checksum, 16) for checksum in record["crc32"]]
        self._file = self.path.open("r+b")
        self._file.truncate(num_bytes)
        self._file.seek(num_bytes)

    def append(self, items: NDArray) -> None:
        """Append a one-dimensional array of the file's dtype."""
        assert items.dtype == self.dtype and items.ndim == 1, (self.path, items.dtype, items.ndim)
        data = np.ascontiguousarray(items).view(np.uint8).data
        self._file.write(data)
        room = -self.num_items * self.dtype.itemsize % BLOCK_BYTES  # under the last checksum
        self.num_items += len(items)
        while len(data):
            if room == 0:
                self._checksums.append(0)
                room = BLOCK_BYTES
            block = data[:room]
            self._checksums[-1] = zlib.crc32(block, self._checksums[-1])
            room -= len(block)
            data = data[len(block) :]

    def sync(self) -> dict[str, Any]:
        """Force what was appended to disk; returns size and checksums for the metadata."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {
            "bytes": HEADER_BYTES + self.num_items * self.dtype.itemsize,
            "crc32": [f"{checksum:08x}" for checksum in self._checksums],
        }

    def close(self) -> dict[str, Any]:
        """Write the header, force all to disk and close; returns the same as `sync`."""
        self._file.seek(0)
        self._file.write(_header(self.dtype, self.num_items))
        record = self.sync()
        self._file.close()
        return record

    def abandon(self) -> None:
        """Close the file as it is; what a full disk did not take is given up."""
        with suppress(OSError):
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.abandon()


def append_ends(offsets: NpyWriter, counts: NDArray, items: NpyWriter) -> None:
    """Append where the next groups of `items` end; call it before those are appended.

    Args:
        offsets: begins with a 0, then has the end of each group.
        counts: integers [N], items of each group.
        items: the file that the offsets point into.
    """
    if offsets.num_items == 0:
        offsets.append(np.zeros(1, offsets.dtype))
    ends = items.num_items + np.cumsum(counts, dtype=np.int64)
    offsets.append(ends.astype(offsets.dtype))


def _header(dtype: np.dtype, num_items: int) -> bytes:
    descr = np.lib.format.dtype_to_descr(dtype)
    fields = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': ({num_items},), }}"
    length = HEADER_BYTES - len(_MAGIC) - 2
    return _MAGIC + length.to_bytes(2, "little") + fields.ljust(length - 1).encode() + b"\n"


def read_npy(path: Path, dtype: np.dtype, num_items: int, num_bytes: int) -> NDArray:
    """Memory-map a file and check in O(1) that it is the one that was written.

    Raises:
        DataError: the file is absent, of another size, type or length, or not an array file.
    """
    try:
        with path.open("rb") as file:  # once; numpy.load opens it three times, in each rank
            found_bytes = os.fstat(file.fileno()).st_size
            if found_bytes != num_bytes:
                raise DataError(
                    f"{path} has {found_bytes:,} bytes, expected {num_bytes:,} by meta.json: a "
                    "broken copy or a full disk? Copy the data set again or rebuild it"
                )
            np.lib.format.read_magic(file)
            shape, _, found = np.lib.format.read_array_header_1_0(file)
            if found != dtype or shape != (num_items,):
                raise DataError(
                    f"{path} holds {found} {list(shape)}, expected {dtype} [{num_items}]; it does "
                    "not belong to this data set"
                )
            return np.asarray(np.memmap(file, dtype, "r", file.tell(), shape))
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): incomplete data set") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is no array file ({error}); rebuild the data set") from error


def damaged_block(items: NDArray, checksums: list[str]) -> int | None:
    """Number of the first 64 MiB block whose checksum differs, None if all agree."""
    data = items.view(np.uint8).data
    num_blocks = -(-len(data) // BLOCK_BYTES)
    if num_blocks != len(checksums):
        return min(num_blocks, len(checksums))
    for block, expected in enumerate(checksums):
        found = zlib.crc32(data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES])
        if f"{found:08x}" != expected:
            return block
    return None
