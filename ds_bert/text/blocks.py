"""Text in blocks of whole documents.

A text file holds one sentence per line and a blank line after each document.
"""

import io
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from ds_bert.errors import DataError
from ds_bert.text import streams
from ds_bert.text.source import Input

BLOCK_BYTES = 4 * 2**20
MAX_DOCUMENT_BYTES = 2**30  # a block holds whole documents, and a block is kept in memory
_SKIP_BYTES = 2**20
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Position(NamedTuple):
    """A place in the text where reading can begin.

    Attributes:
        number: of the input, from 0.
        offset: bytes of that input's text.
    """

    number: int = 0
    offset: int = 0


START = Position()


class Block(NamedTuple):
    """Whole documents.

    Attributes:
        text: UTF-8.
        end: where the next block begins.
    """

    text: bytes
    end: Position


def read_blocks(
    inputs: Sequence[Input],
    *,
    join_files: bool,
    block_bytes: int = BLOCK_BYTES,
    start: Position = START,
) -> Iterator[Block]:
    """The text of all files in blocks that end where a document ends.

    A block ends at the first blank line after `block_bytes`; lines that are blank only for Unicode
    do not count here, they may stand inside a block. So documents are never cut, and what is made
    of them does not depend on `block_bytes`.

    Args:
        inputs: the files, in order.
        join_files: let the last document of a file go on in the next file, as Google's reader does;
            otherwise the end of a file ends a document.
        block_bytes: least size of a block (the last one may be smaller).
        start: the beginning of the text, or the end of an earlier block.

    Raises:
        DataError: a file cannot be read, or a document is longer than 1 GiB.
    """
    files, num_bytes, end = _JoinedFiles(inputs, join_files, start), 0, start
    with io.BufferedReader(files, 1 << 20) as text:
        while block := _read_block(text, block_bytes, inputs[end.number : end.number + 1]):
            num_bytes += len(block)
            end = files.position(num_bytes)
            yield Block(block, end)


def read_lines(source: Input) -> Iterator[bytes]:
    """The text of an input in blocks of whole lines.

    Raises:
        DataError: the input cannot be read, or a line is longer than 256 MiB.
    """
    num_lines = 0
    with source.open() as file:
        while block := file.read(BLOCK_BYTES):
            num_lines += block.count(b"\n")
            rest = file.readline(streams.MAX_LINE_BYTES)
            if len(rest) == streams.MAX_LINE_BYTES:
                raise streams.long_line(str(source), num_lines + 1)
            num_lines += rest.endswith(b"\n")
            yield block + rest


def read_sample(inputs: Sequence[Input], num_bytes: int) -> bytes:
    """The first bytes of the text, or all of it."""
    with io.BufferedReader(_JoinedFiles(inputs, True, START), num_bytes) as text:
        return text.read(num_bytes)


def _read_block(text: BinaryIO, block_bytes: int, names: Sequence[Input]) -> bytes:
    pieces = [text.read(block_bytes), text.readline(MAX_DOCUMENT_BYTES)]  # to the end of a line
    room = block_bytes + MAX_DOCUMENT_BYTES - len(pieces[0]) - len(pieces[1])
    while line := text.readline(MAX_DOCUMENT_BYTES):
        pieces.append(line)
        room -= len(line)
        if not line.strip():
            break
        if room < 0:
            raise DataError(
                f"{', '.join(map(str, names))}: more than {MAX_DOCUMENT_BYTES:,} bytes without a "
                "blank line; put one sentence on each line and a blank line between documents"
            )
    return b"".join(pieces)


class _JoinedFiles(io.RawIOBase):
    """Files one after the other, with line feeds between them where they must not run together."""

    def __init__(self, inputs: Sequence[Input], join_documents: bool, start: Position) -> None:
        self._inputs, self._number = inputs, start.number
        self._join_documents = join_documents
        self._file: BinaryIO | None = None
        self._between = b""
        self._last_byte = b"\n"  # a start is always that of a line
        self._num_bytes = 0  # given so far
        self._starts = deque([(-start.offset, start.number)])  # of inputs, counted like num_bytes
        self._open()
        if self._file is not None:
            _skip(self._file, start.offset)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._file is not None:
            if self._between:
                return self._fill(buffer, self._take_between(len(buffer)))
            data = self._file.read(len(buffer))
            if data:
                return self._fill(buffer, data)
            self._between = self._border()
            self._next_file()
        return 0

    def position(self, num_bytes: int) -> Position:
        """Where the byte after the first `num_bytes` bytes stands; never goes back."""
        while len(self._starts) > 1 and self._starts[1][0] <= num_bytes:
            self._starts.popleft()
        start, number = self._starts[0]
        return Position(number, num_bytes - start)

    def _fill(self, buffer: Any, data: bytes) -> int:
        buffer[: len(data)] = data
        self._last_byte = data[-1:]
        self._num_bytes += len(data)
        return len(data)

    def _take_between(self, num_bytes: int) -> bytes:
        taken, self._between = self._between[:num_bytes], self._between[num_bytes:]
        return taken

    def _border(self) -> bytes:
        if not self._join_documents:
            return b"\n\n"
        return b"" if self._last_byte == b"\n" else b"\n"

    def _next_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._number += 1
        self._starts.append((self._num_bytes + len(self._between), self._number))
        self._open()

    def _open(self) -> None:
        is_one = self._number < len(self._inputs)
        self._file = self._inputs[self._number].open() if is_one else None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def _skip(file: BinaryIO, num_bytes: int) -> None:
    if file.seekable():
        file.seek(num_bytes)
        return
    while num_bytes > 0 and (data := file.read(min(num_bytes, _SKIP_BYTES))):
        num_bytes -= len(data)


def invalid_utf8(inputs: Sequence[Input]) -> DataError:
    """The error for the first place that is not UTF-8; reads the files once more, line by line."""
    for source in (item.unsplit for item in inputs):
        offset = 0
        with source.open() as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    byte = offset + error.start
                    place = f"{source}, line {number}, byte {byte} of {source.content}"
                    return DataError(f"{place}: not UTF-8{_cure(source, line[error.start])}")
                offset += len(line)
    return DataError("the input changed while it was read, and was not UTF-8 at first; try again")


def _cure(source: Input, byte: int) -> str:
    with source.open() as file:
        if file.read(2) in _UTF16_MARKS:
            return f" but UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {source}"
    return f" (0x{byte:02x}); convert the file, or leave such bytes out with --errors ignore"
