"""Pieces of bytes as a stream, and streams as lines."""

import io
from collections.abc import Generator, Iterator
from typing import Any, BinaryIO

from ds_bert.errors import DataError

BUFFER_BYTES = 2**18
MAX_LINE_BYTES = 2**28  # a line is kept in memory


class _Pieces(io.RawIOBase):
    def __init__(self, pieces: Generator[bytes, None, None]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def close(self) -> None:
        self._pieces.close()
        super().close()


def stream_of(pieces: Generator[bytes, None, None]) -> BinaryIO:
    """A stream, not seekable, of what a generator yields; its errors come out of `read`."""
    return io.BufferedReader(_Pieces(pieces), BUFFER_BYTES)


def numbered_lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a stream with their line ends, numbered from 1.

    Raises:
        DataError: a line does not end within 256 MiB.
    """
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES:
            raise DataError(f"{name}, line {number}: {len(line):,} bytes without a line end")
        yield number, line
