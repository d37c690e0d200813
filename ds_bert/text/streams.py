"""Streams of bytes: files that may be compressed, pieces as a stream, a stream as lines."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ds_bert.errors import ConfigurationError, DataError, SourceUnavailable
from ds_bert.text.remote import RemotePath, known, open_remote

BUFFER_BYTES = 2**18
MAX_LINE_BYTES = 2**28  # a line is kept in memory
_PIECE_BYTES = 2**18
_FRAME_BYTES = 2**14  # compressed; what comes out of one piece is in memory at once
_WINDOW_BYTES = 2**31  # files made with `zstd --ultra --long=31`


def compression(path: Path) -> str:
    """The suffix of a compressed file, in lower case, or an empty string."""
    return path.suffix.lower() if path.suffix.lower() in _READERS else ""


def plain_bytes(path: Path) -> int:
    """Size of a file; of a compressed one about the size of the text in it."""
    if isinstance(path, RemotePath):
        return (known(path).num_bytes or 0) * _RATIO.get(compression(path), 1)
    with reading(path):
        return path.stat().st_size * _RATIO.get(compression(path), 1)


@contextmanager
def reading(name: object) -> Iterator[None]:
    """Errors of the disk, which are no fault of what is on it, as SourceUnavailable."""
    try:
        yield
    except OSError as error:
        if not error.errno:  # raised by who looks at the content
            raise
        raise SourceUnavailable(f"cannot read {name}: {error.strerror}") from error


class _File(io.FileIO):
    """A file to read; an error names it."""

    def readinto(self, buffer: Any) -> int:
        with reading(self.name):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with reading(self.name):
            return super().readall()


def open_raw(path: Path) -> BinaryIO:
    """The file as it is.

    Raises:
        SourceUnavailable: it cannot be opened or, later, read.
    """
    if isinstance(path, RemotePath):
        return open_remote(path)
    with reading(path):
        return io.BufferedReader(_File(path))


def open_plain(path: Path) -> BinaryIO:
    """What is in a file, decompressed according to its suffix.

    Returns:
        A stream; it is seekable only for a file that is not compressed. Reading a damaged or
        incomplete file raises DataError.

    Raises:
        ConfigurationError: the package for .zst is not installed.
        SourceUnavailable: the file cannot be opened.
    """
    suffix = compression(path)
    if suffix == ".zst":
        _zstandard(path)  # say now what is missing
    file = open_raw(path)
    return stream_of(_decompressed(path, file)) if suffix else file


def _decompressed(path: Path, file: BinaryIO) -> Generator[bytes, None, None]:
    with file:
        try:
            yield from _READERS[compression(path)](file)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(
                f"{path} is damaged or incomplete ({error}); copy or download it again"
            ) from error


def _read(open_compressed: Callable[..., Any], file: BinaryIO) -> Iterator[bytes]:
    with open_compressed(file) as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece


def _read_zst(file: BinaryIO) -> Iterator[bytes]:
    """All frames of a file; zstandard's own stream reader does not notice that one was cut."""
    zstandard = _zstandard(Path(file.name))
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    frame, complete, data = decompressor.decompressobj(), True, b""
    while data := data or file.read(_FRAME_BYTES):
        try:
            yield frame.decompress(data)
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from error
        complete, data = frame.eof, frame.unused_data
        if complete:
            frame = decompressor.decompressobj()
    if not complete:
        raise EOFError("the last frame has no end")


def _zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{path}: reading .zst needs the package zstandard; run `pip install zstandard`"
        ) from error
    return zstandard


_READERS: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    ".gz": partial(_read, gzip.open),
    ".bz2": partial(_read, bz2.open),
    ".xz": partial(_read, lzma.open),
    ".zst": _read_zst,
}
_RATIO = {".gz": 3, ".bz2": 4, ".xz": 4, ".zst": 3}  # usual for text


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
            raise long_line(name, number)
        yield number, line


def short_lines(stream: BinaryIO, name: str) -> Generator[bytes, None, None]:
    """Pieces of a stream.

    Raises:
        DataError: a line does not end within 256 MiB.
    """
    num_lines = num_bytes = 0  # before this piece; since the last line end
    while piece := stream.read(_PIECE_BYTES):
        end = max(piece.rfind(b"\n"), piece.rfind(b"\r"))
        num_bytes = num_bytes + len(piece) if end < 0 else len(piece) - end - 1
        num_lines += piece.count(b"\n")
        if num_bytes >= MAX_LINE_BYTES:
            raise long_line(name, num_lines + 1)
        yield piece


def long_line(name: str, number: int) -> DataError:
    """The error for a line that is not kept in memory."""
    return DataError(
        f"{name}, line {number}: {MAX_LINE_BYTES:,} bytes without a line end, expected fewer; "
        "is it text? Put a sentence on each line"
    )
