"""Tables with a column of text as input: each row is a document."""

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar

from ds_bert.errors import DataError
from ds_bert.files import parse_json
from ds_bert.text import streams
from ds_bert.text.source import Input
from ds_bert.text.streams import (
    compression,
    numbered_lines,
    open_plain,
    open_raw,
    plain_bytes,
    stream_of,
)

_BATCH_ROWS = 256


@dataclass(frozen=True)
class RowInput(Input, ABC):
    """Rows, each a document whose lines are sentences.

    Blank lines inside a row are left out: only the end of a row ends a document.

    Attributes:
        text_column: name of the column.
        flag: which names the column, for messages.
    """

    text_column: str
    flag: str = field(default="--text_column", kw_only=True)
    content: ClassVar[str] = "the text of its rows"

    @abstractmethod
    def rows(self) -> Iterator[tuple[str, Any]]:
        """Place (for messages) and value of the column, row by row."""

    def class_names(self) -> list[str]:
        """What the whole numbers of the column stand for, where the source knows; else nothing."""
        return []

    def open(self) -> BinaryIO:
        """A stream of the rows as text; it is not seekable."""
        return stream_of(self._documents())

    def describe(self) -> dict[str, Any]:
        """As for text, with the name of the column."""
        suffixes = self.path.suffixes[-2 if compression(self.path) else -1 :]
        kind = {"format": "".join(suffixes).lower()[1:], "text_column": self.text_column}
        return {**super().describe(), **kind}

    def _documents(self) -> Generator[bytes, None, None]:
        for place, text in self.rows():
            if not isinstance(text, str):
                raise DataError(
                    f"{self}, {place}: {self.text_column!r} is {text!r:.40}, expected a string; "
                    "remove the row, or name the column of the text with --text_column"
                )
            yield document_lines(text)

    def no_column(self, place: str, found: Any) -> DataError:
        """The error for a place where the column is missing."""
        return DataError(
            f"{self}, {place}: no {self.text_column!r}, found {', '.join(map(str, found))[:200]}; "
            f"name the column with {self.flag}"
        )


def document_lines(text: str) -> bytes:
    """The lines of a text that are not blank, UTF-8, and a blank line after them."""
    lines = [line for line in text.split("\n") if line.strip()]
    # Half a surrogate pair (JSON may have one) becomes bytes that are not UTF-8, and these are
    # refused or left out like those of any text.
    return "\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass")


class JsonInput(RowInput):
    """JSON Lines: an object on each line."""

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Place and text of each line that is not blank."""
        with open_plain(self.path) as stream:
            for number, line in numbered_lines(stream, str(self)):
                if line.strip():
                    row = self._object(number, line)
                    if self.text_column not in row:
                        raise self.no_column(f"line {number}", row)
                    yield f"line {number}", row[self.text_column]

    def _object(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            row = parse_json(line.decode("utf-8-sig"))
        except ValueError as error:
            raise DataError(
                f"{self}, line {number}: not JSON ({error}); expected one object on each line"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{self}, line {number}: {row!r:.40}, expected an object on each line")
        return row


class CsvInput(RowInput):
    """Comma-separated values, or tab-separated ones (.tsv), with the names in the first row."""

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Place and text of each row that is not empty."""
        with open_plain(self.path) as stream:
            is_tsv = ".tsv" in (suffix.lower() for suffix in self.path.suffixes[-2:])
            lines = stream_of(streams.short_lines(stream, str(self)))
            text = io.TextIOWrapper(lines, "utf-8-sig", newline="")
            reader = csv.reader(text, delimiter="\t" if is_tsv else ",", strict=True)
            try:
                yield from self._texts(reader)
            except (csv.Error, UnicodeDecodeError) as error:
                place = f"{self}, after line {reader.line_num}"
                raise DataError(f"{place}: not CSV in UTF-8 ({error}); mend the file") from error

    def _texts(self, reader: Any) -> Iterator[tuple[str, Any]]:
        csv.field_size_limit(streams.MAX_LINE_BYTES)  # by default 128 KiB
        names: list[str] = next(reader, [])
        if self.text_column not in names:
            raise self.no_column("line 1", names)
        column = names.index(self.text_column)
        for row in reader:
            if len(row) > column:
                yield f"line {reader.line_num}", row[column]
            elif row:
                raise self.no_column(f"line {reader.line_num}", row)


class ParquetInput(RowInput):
    """A Parquet file, read in batches."""

    @property
    def num_bytes(self) -> int:
        """About the size of the text; Parquet is compressed inside."""
        return 2 * plain_bytes(self.path)

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Place and text of each row, numbered from 1."""
        import pyarrow
        from pyarrow import parquet

        number = 0
        try:
            with open_raw(self.path) as raw, parquet.ParquetFile(raw) as file:
                if self.text_column not in file.schema_arrow.names:
                    raise self.no_column("columns", file.schema_arrow.names)
                batches = file.iter_batches(
                    _BATCH_ROWS, columns=[self.text_column], use_threads=False
                )
                for batch in batches:
                    for value in _values(batch.column(0)):
                        yield f"row {number + 1}", value
                        number += 1
        except UnicodeDecodeError as error:
            place = f"{self}, row {number + 1}"
            raise DataError(f"{place}: not UTF-8 ({error}); mend the file") from error
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(
                f"{self} is damaged or not Parquet ({error}); copy or download it again"
            ) from error


def _values(column: Any) -> Iterable[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return (cell.as_py() for cell in column)  # up to the cell that is none
