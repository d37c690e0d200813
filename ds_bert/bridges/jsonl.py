"""JSON lines: one masked instance a row, in tokens, with the names of Google's script."""

import gzip
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ds_bert.bridges.columns import Columns, Lists, lists_of_counts
from ds_bert.bridges.formats import InstanceFile, InstanceWriter, Piece, Place, open_at
from ds_bert.dataset.store import InstanceTable
from ds_bert.files import parse_json
from ds_bert.instances.collate import BatchArrays
from ds_bert.text.streams import compression, numbered_lines, plain_bytes

_ROWS = 1000  # at once
_TOKENS, _SEGMENTS, _POSITIONS, _LABELS, _NEXT = FIELDS = (
    "tokens",
    "segment_ids",
    "masked_lm_positions",
    "masked_lm_labels",
    "is_random_next",
)


class _Row(NamedTuple):
    """The numbers of one line."""

    input_ids: Sequence[int] = array("q")
    segment_ids: Sequence[int] = array("q")
    positions: Sequence[int] = array("q")
    labels: Sequence[int] = array("q")
    is_random_next: int = 0
    has_masks: bool = True
    problem: str | None = None


def _read(line: bytes, ids: Mapping[str, int]) -> _Row:
    try:
        row = _parse(line)
        has_masks = _POSITIONS in row
        label = row.get(_NEXT, False)
        if label not in (0, 1):
            raise ValueError(f"{_NEXT} is {label!r:.40}, expected true or false")
        return _Row(
            _token_ids(row, _TOKENS, ids),
            _numbers(row, _SEGMENTS),
            _numbers(row, _POSITIONS) if has_masks else array("q"),
            _token_ids(row, _LABELS, ids) if has_masks else array("q"),
            int(label),
            has_masks,
        )
    except ValueError as error:
        return _Row(problem=str(error))


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = parse_json(line.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"not JSON ({error}), expected one object on each line") from None
    if not isinstance(row, dict) or _TOKENS not in row:
        found = ", ".join(row) if isinstance(row, dict) else repr(row)
        raise ValueError(
            f"found {found:.80}, expected an object with {', '.join(FIELDS)} (of text, ds-bert "
            "preprocess makes such instances)"
        )
    return row


def _token_ids(row: dict[str, Any], name: str, ids: Mapping[str, int]) -> Sequence[int]:
    tokens = row.get(name)
    if not isinstance(tokens, list):
        raise ValueError(f"{name} is {tokens!r:.40}, expected a list of tokens")
    try:
        return array("q", map(ids.__getitem__, tokens))
    except (KeyError, TypeError):
        unknown = next(t for t in tokens if not isinstance(t, str) or t not in ids)
        raise ValueError(
            f"{unknown!r:.40} in {name} is not in the vocabulary, expected the vocabulary that the "
            "file was made with"
        ) from None


def _numbers(row: dict[str, Any], name: str) -> Sequence[int]:
    numbers = row.get(name)
    try:
        return array("q", numbers)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        raise ValueError(f"{name} is {numbers!r:.40}, expected a list of whole numbers") from None


class File(InstanceFile):
    """A file of JSON lines, perhaps compressed (.gz, .bz2, .xz, .zst)."""

    format, record = "jsonl", "line"

    @staticmethod
    def begins_with(head: bytes) -> bool:
        """An object."""
        return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")

    def size(self) -> int:
        """Bytes of the text; of a compressed file about."""
        return plain_bytes(self.path)

    def pieces(self, place: Place) -> Iterator[Piece]:
        """A thousand lines at a time; blank ones are left out."""
        with open_at(self.path, place.offset) as stream:
            offset, number = place
            rows: list[_Row] = []
            numbers: list[int] = []
            for count, line in numbered_lines(stream, str(self)):
                offset, number = offset + len(line), place.number + count
                if line.strip():
                    rows.append(_read(line, self.vocabulary.ids))
                    numbers.append(number)
                if len(rows) == _ROWS:
                    yield _piece(rows, numbers, Place(offset, number))
                    rows, numbers = [], []
            if rows:
                yield _piece(rows, numbers, Place(offset, number))


def _piece(rows: list[_Row], numbers: list[int], place: Place) -> Piece:
    problems = {number: row.problem for number, row in enumerate(rows) if row.problem is not None}
    has_masks = next((row.has_masks for row in rows if row.problem is None), True)
    for number, row in enumerate(rows):
        if row.problem is None and row.has_masks != has_masks:
            problems[number] = f"{_POSITIONS} in some lines only, expected in all or in none"
    input_ids, segment_ids, positions, labels = (
        _lists(each) for each in list(zip(*rows, strict=True))[:4]
    )
    for unequal in np.flatnonzero(positions.counts != labels.counts):
        found = f"{positions.counts[unequal]} {_POSITIONS} and {labels.counts[unequal]} {_LABELS}"
        problems.setdefault(int(unequal), f"{found}, expected as many")
    columns = Columns(
        input_ids,
        segment_ids,
        input_ids.counts,
        positions,
        labels,
        positions.counts,
        np.array([row.is_random_next for row in rows], np.int64),
    )
    return Piece(columns, np.array(numbers, np.int64), problems, place, has_masks)


def _lists(arrays: Sequence[Any]) -> Lists:
    values = np.frombuffer(b"".join(arrays), np.int64)
    return lists_of_counts(values, np.fromiter(map(len, arrays), np.int64, len(arrays)))


class Writer(InstanceWriter):
    """JSON lines as `json.dumps` writes them, compressed where the name ends in .gz."""

    def __init__(self, path: Path, table: InstanceTable, num_rows: int, final: Path) -> None:
        """Open the file."""
        super().__init__(path, table, num_rows, final)
        self._raw = self._file = path.open("wb")
        if compression(final):  # without name and time, so that the same rows are the same bytes
            self._file = gzip.GzipFile("", "wb", 6, self._raw, mtime=0)  # type: ignore[assignment]
        # Each token as it stands in JSON, so that a row is joined and never encoded.
        self._words = [
            json.dumps(token, ensure_ascii=False) for token in table.store.vocabulary.tokens
        ]

    def write(self, batch: BatchArrays) -> None:
        """Append some instances."""
        bounds = batch.cu_seqlens.tolist()
        mask_bounds = np.searchsorted(batch.masked_lm_positions, batch.cu_seqlens)
        counts = np.diff(mask_bounds)
        starts = np.repeat(batch.cu_seqlens[:-1], counts)
        positions = (batch.masked_lm_positions - starts).tolist()
        tokens, labels = batch.input_ids.tolist(), batch.masked_lm_labels.tolist()
        segments, ends = batch.token_type_ids.tolist(), mask_bounds.tolist()
        lines = []
        for row, label in enumerate(batch.next_sentence_labels.tolist()):
            shown, asked = slice(*bounds[row : row + 2]), slice(*ends[row : row + 2])
            lines.append(
                f'{{"{_TOKENS}": [{self._joined(tokens[shown])}], '
                f'"{_SEGMENTS}": {segments[shown]}, '
                f'"{_POSITIONS}": {positions[asked]}, '
                f'"{_LABELS}": [{self._joined(labels[asked])}], '
                f'"{_NEXT}": {"true" if label else "false"}}}\n'
            )
        self._file.write("".join(lines).encode())

    def _joined(self, ids: list[int]) -> str:
        return ", ".join(map(self._words.__getitem__, ids))

    def close(self) -> None:
        """Complete the file."""
        self._file.close()
        self._raw.close()
