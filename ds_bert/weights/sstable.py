"""LevelDB's table format: sorted keys and values in blocks. The index of a TF1 checkpoint is one.

    data blocks, metaindex block, index block, footer

A block is a row of entries, the offsets of those entries whose key is written out ("restarts"), and
a trailer: one byte of compression and a checksum. An entry leaves out the bytes that its key shares
with the key before. The index block maps a key not below any of a data block to the block's place.

Source: google/leveldb, doc/table_format.md; tensorflow/core/lib/io/format.cc, block_builder.cc.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import pyarrow

from ds_bert.bridges.tfrecord import masked_crc32c
from ds_bert.errors import CheckpointError

PLAIN, SNAPPY = 0, 1
_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_FOOTER, _TRAILER = 48, 5  # bytes
_RESTART_INTERVAL = 16
_MAX_BLOCK = 1 << 26  # bytes of a block that is unpacked


def read_table(path: Path) -> dict[bytes, bytes]:
    """All entries of a table, in the order of their keys.

    Raises:
        CheckpointError: not readable, damaged, or no table.
    """
    try:
        content = path.read_bytes()
        return dict(_read(content))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, struct.error) as error:
        raise CheckpointError(
            f"{path} is damaged, or no index of a TensorFlow checkpoint ({error}); copy it again"
        ) from None


def _read(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    footer = content[-_FOOTER:]
    if len(footer) < _FOOTER or not footer.endswith(_MAGIC):
        raise ValueError("its last bytes are not those of a table")
    metaindex, position = _read_handle(footer, 0)
    index, _ = _read_handle(footer, position)
    _read_block(content, *metaindex)  # holds nothing; its checksum counts all the same
    for _, value in _entries(_read_block(content, *index)):
        handle, _ = _read_handle(value, 0)
        yield from _entries(_read_block(content, *handle))


def _read_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and where the handle ends."""
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (offset, size), position


def _read_block(content: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + _TRAILER > len(content):
        raise ValueError("a block goes beyond its end")
    compression, crc = struct.unpack_from("<BI", content, end)
    if masked_crc32c(content[offset : end + 1]) != crc:
        raise ValueError(f"the block at byte {offset:,} does not match its checksum")
    block = content[offset:end]
    if compression == SNAPPY:
        size, _ = read_varint(block, 0)
        if size > _MAX_BLOCK:
            raise ValueError(f"a block of {size:,} bytes")
        block = pyarrow.decompress(block, size, codec="snappy", asbytes=True)
    elif compression != PLAIN:
        raise ValueError(f"unknown compression {compression}")
    return block


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    (num_restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    end = len(block) - 4 * (num_restarts + 1)
    key, position = b"", 0
    while position < end:
        shared, position = read_varint(block, position)
        unshared, position = read_varint(block, position)
        length, position = read_varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length


def write_table(path: Path, entries: dict[bytes, bytes]) -> None:
    """Write a table of one data block, not compressed, as TensorFlow does.

    Args:
        path: where to.
        entries: keys and values, in any order.
    """
    data = _make_block(sorted(entries.items()))
    metaindex = _make_block([])
    places = _handle(0, data), _handle(len(data), metaindex)
    index = _make_block([(max(entries), places[0])])
    footer = places[1] + _handle(len(data) + len(metaindex), index)
    padding = bytes(_FOOTER - len(_MAGIC) - len(footer))
    path.write_bytes(data + metaindex + index + footer + padding + _MAGIC)


def _handle(offset: int, block: bytes) -> bytes:
    return make_varint(offset) + make_varint(len(block) - _TRAILER)


def _make_block(entries: list[tuple[bytes, bytes]]) -> bytes:
    block, before, restarts = bytearray(), b"", [0]
    for number, (key, value) in enumerate(entries):
        shared = _num_shared(before, key)
        if number and number % _RESTART_INTERVAL == 0:
            shared = 0
            restarts.append(len(block))
        block += make_varint(shared) + make_varint(len(key) - shared) + make_varint(len(value))
        block += key[shared:] + value
        before = key
    block += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    block.append(PLAIN)
    return bytes(block) + struct.pack("<I", masked_crc32c(bytes(block)))


def _num_shared(first: bytes, second: bytes) -> int:
    """How many bytes two keys have in common from the start."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the position after it.

    Raises:
        IndexError, ValueError: it goes beyond the end, or beyond 64 bits.
    """
    value = shift = 0
    while shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number of more than 64 bits")


def make_varint(value: int) -> bytes:
    """What `read_varint` reads."""
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
