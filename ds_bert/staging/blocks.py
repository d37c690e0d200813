"""Array files read from end to end, block by block, against the checksums of their data set."""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ds_bert.dataset.npy import BLOCK_BYTES, HEADER_BYTES
from ds_bert.errors import DataError


def checked_blocks(path: Path, record: dict[str, Any]) -> Iterator[bytes]:
    """The header of an array file, then its data in blocks of 64 MiB.

    Args:
        path: the file.
        record: size and checksums of its blocks, from meta.json.

    Raises:
        DataError: it cannot be read, or is not what was written.
    """
    try:
        with path.open("rb") as file:
            found_bytes = file.seek(0, 2)
            if found_bytes != record["bytes"]:
                raise DataError(
                    f"{path} has {found_bytes:,} bytes, expected {record['bytes']:,} by meta.json; "
                    "copy the data set again or rebuild it"
                )
            file.seek(0)
            yield file.read(HEADER_BYTES)
            for number, expected in enumerate(record["crc32"]):
                block = file.read(BLOCK_BYTES)
                if f"{zlib.crc32(block):08x}" != expected:
                    raise DataError(
                        f"{path}: the checksum of block {number} (64 MiB each) differs, the file "
                        "was damaged after it was written; copy the data set again or rebuild it"
                    )
                yield block
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); look at its disk") from error


def is_sound(
    path: Path, original: Path, record: dict[str, Any], moved: Callable[[], object]
) -> bool:
    """Whether a file is there and has the header of the original and the data of the record."""
    if not path.exists():
        return False
    try:
        header = next(checked_blocks(original, record))
        for number, block in enumerate(checked_blocks(path, record)):
            if number == 0 and block != header:
                return False
            moved()
    except DataError:
        return False
    return True
