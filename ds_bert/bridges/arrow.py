"""Hugging Face data sets of finished instances: folders of `save_to_disk`, and Parquet files.

Columns: `input_ids`, `token_type_ids`, `labels` with -100 where a token is not masked,
`next_sentence_label`, and `attention_mask` where rows are padded.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from ds_bert.bridges.columns import Columns, Lists, ones_at_front
from ds_bert.bridges.formats import InstanceFile, InstanceWriter, Piece, Place
from ds_bert.compiled import compiled
from ds_bert.dataset.store import InstanceTable
from ds_bert.errors import DataError
from ds_bert.instances.collate import BatchArrays
from ds_bert.text.hf_datasets import dataset_folder
from ds_bert.text.source import file_state, size_and_hash
from ds_bert.text.streams import open_raw

_ROWS = 1000  # at once
NO_LABEL = -100
_IDS, _SEGMENTS, _MASK, _LABELS, _NEXT = (
    "input_ids",
    "token_type_ids",
    "attention_mask",
    "labels",
    "next_sentence_label",
)
_TYPES = {
    _IDS: pa.list_(pa.int32()),
    _SEGMENTS: pa.list_(pa.int8()),
    _MASK: pa.list_(pa.int8()),
    _LABELS: pa.list_(pa.int32()),
    _NEXT: pa.int64(),
}


class File(InstanceFile):
    """One split of a data set, or a Parquet file."""

    format, record = "datasets", "row"

    @staticmethod
    def begins_with(head: bytes) -> bool:
        """The signature of Parquet."""
        return head.startswith(b"PAR1")

    def __init__(self, path: Path, *arguments: Any) -> None:
        """Of a folder with several splits take the one for training."""
        super().__init__(dataset_folder(path, "").path if path.is_dir() else path, *arguments)

    def size(self) -> int:
        """Its rows."""
        return self._parquet().metadata.num_rows if self.path.is_file() else len(self._data_set())

    def state(self) -> object:
        """That of the file, or of the tables of the folder."""
        return {path: file_state(path) for path in self._tables()}

    def describe(self) -> dict[str, Any]:
        """Bytes and hash of each table."""
        return {"tables": [size_and_hash(open_raw(path)) for path in self._tables()]}

    def _tables(self) -> list[Path]:
        return [self.path] if self.path.is_file() else sorted(self.path.glob("*.arrow"))

    def pieces(self, place: Place) -> Iterator[Piece]:
        """A thousand rows at a time."""
        first = place.offset
        for batch in self._batches(first):
            last = first + batch.num_rows
            columns, problems, has_masks = self._columns(batch)
            numbers = np.arange(first + 1, last + 1)
            yield Piece(columns, numbers, problems, Place(last, last), has_masks)
            first = last

    def _batches(self, first: int) -> Iterator[pa.RecordBatch]:
        if self.path.is_file():
            yield from self._parquet_batches(first)
            return
        data_set = self._data_set().with_format("arrow")
        for start in range(first, len(data_set), _ROWS):
            try:
                table = data_set[start : start + _ROWS]
            except (pa.ArrowException, OSError) as error:
                raise self._damaged_table(error) from error
            yield from table.combine_chunks().to_batches()

    def _parquet_batches(self, first: int) -> Iterator[pa.RecordBatch]:
        file = self._parquet()
        try:
            for batch in file.iter_batches(_ROWS, use_threads=False):
                if first < batch.num_rows:
                    yield batch.slice(first)
                first = max(0, first - batch.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged_table(error) from error

    def _parquet(self) -> Any:
        try:
            return parquet.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged_table(error) from error

    def _data_set(self) -> Any:
        import datasets

        try:
            return datasets.load_from_disk(str(self.path))
        except Exception as error:  # whatever the file formats raise
            raise self._damaged_table(error) from error

    def _damaged_table(self, error: Exception) -> DataError:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        return DataError(
            f"{self} cannot be read ({line}), expected a folder of save_to_disk or Parquet; copy "
            "or make it again"
        )

    def _columns(self, batch: pa.RecordBatch) -> tuple[Columns, dict[int, str], bool]:
        names = set(batch.schema.names)
        lacking = {_IDS} - names
        has_pairs = _SEGMENTS in names and _NEXT in names
        if lacking or (_NEXT in names and not has_pairs):
            raise DataError(
                f"{self} has columns {', '.join(sorted(names)):.200}, expected {_IDS}, and for "
                f"pairs {_SEGMENTS} and {_NEXT}; of text, ds-bert preprocess makes instances"
            )
        problems: dict[int, str] = {}
        found = {
            name: self._lists(batch.column(name), name, problems)
            for name in (_IDS, _SEGMENTS, _MASK, _LABELS)
            if name in names
        }
        ids = found[_IDS]
        lengths = ones_at_front(found[_MASK]) if _MASK in found else self._without_padding(ids)
        nothing = Lists(np.zeros(0, np.int64), *np.zeros((2, batch.num_rows), np.int64))
        segments = found.get(_SEGMENTS) or Lists(np.zeros_like(ids.values), ids.starts, ids.counts)
        positions = labels = nothing
        if _LABELS in found:
            positions, labels = _masked(found[_LABELS], lengths)
            for row in np.flatnonzero(found[_LABELS].counts != ids.counts):
                problems.setdefault(int(row), f"expected as many {_LABELS} as {_IDS}")
        is_next = np.zeros(batch.num_rows, np.int64)
        if _NEXT in names:
            is_next = self._numbers(batch.column(_NEXT), problems)
        columns = Columns(ids, segments, lengths, positions, labels, positions.counts, is_next)
        return columns, problems, _LABELS in found

    def _without_padding(self, ids: Lists) -> NDArray[np.int64]:
        """Lengths up to the last token that is not [PAD]."""
        return _lengths(ids, self.vocabulary.pad_id)

    def _lists(self, column: Any, name: str, problems: dict[int, str]) -> Lists:
        kind = column.type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if not is_list or not pa.types.is_integer(kind.value_type):
            raise DataError(f"{self}: column {name} is of {kind}, expected lists of integers")
        values, offsets = column.values, column.offsets.to_numpy().astype(np.int64)
        starts, counts = offsets[:-1], np.diff(offsets)
        bad = column.is_null().to_numpy(zero_copy_only=False)
        if values.null_count:
            nulls = np.cumsum([0, *values.is_null().to_numpy(zero_copy_only=False)])
            bad = bad | (nulls[offsets[1:]] > nulls[starts])
            values = values.fill_null(0)
        for row in np.flatnonzero(bad):
            problems[int(row)] = f"null in {name}, expected a list of integers"
        counts = np.where(bad, 0, counts)
        return Lists(values.to_numpy(zero_copy_only=False).astype(np.int64), starts, counts)

    def _numbers(self, column: Any, problems: dict[int, str]) -> NDArray[np.int64]:
        if not (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
            raise DataError(f"{self}: column {_NEXT} is of {column.type}, expected integers")
        for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
            problems.setdefault(int(row), f"null in {_NEXT}, expected 0 or 1")
        return column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)


@compiled
def _lengths(ids, pad_id):
    result = np.zeros(len(ids.counts), np.int64)
    for row in range(len(result)):
        length = max(0, ids.counts[row])
        while length > 0 and ids.values[ids.starts[row] + length - 1] == pad_id:
            length -= 1
        result[row] = length
    return result


def _masked(labels: Lists, lengths: NDArray[np.int64]) -> tuple[Lists, Lists]:
    """Positions and labels of the masked tokens: those whose label is not -100."""
    counts = np.zeros(len(lengths), np.int64)
    positions, values = np.empty((2, len(labels.values)), np.int64)
    total = _gather_masks(labels, positions, values, counts)
    starts = np.cumsum(counts) - counts
    return Lists(positions[:total], starts, counts), Lists(values[:total], starts, counts)


@compiled
def _gather_masks(labels, positions, values, counts):
    total = 0
    for row in range(len(counts)):
        first = total
        for place in range(max(0, labels.counts[row])):
            label = labels.values[labels.starts[row] + place]
            if label != NO_LABEL:
                positions[total], values[total] = place, label
                total += 1
        counts[row] = total - first
    return total


class Writer(InstanceWriter):
    """A folder as of `save_to_disk`, or a Parquet file where the name ends so; without padding."""

    def __init__(self, path: Path, table: InstanceTable, num_rows: int, final: Path) -> None:
        """Open the table."""
        super().__init__(path, table, num_rows, final)
        self._schema = pa.schema(list(_TYPES.items()))
        self._is_parquet = final.suffix.lower() == ".parquet"
        if self._is_parquet:
            self._writer = parquet.ParquetWriter(path, self._schema)
        else:
            self._raw = path.with_name("rows.arrow")  # a data set cannot be saved where it is
            self._writer = pa.ipc.new_stream(str(self._raw), self._schema)

    def write(self, batch: BatchArrays) -> None:
        """Append some rows."""
        labels = np.full(len(batch.input_ids), NO_LABEL, np.int32)
        labels[batch.masked_lm_positions] = batch.masked_lm_labels
        lists = {
            _IDS: batch.input_ids,
            _SEGMENTS: batch.token_type_ids.astype(np.int8),
            _MASK: np.ones(len(labels), np.int8),
            _LABELS: labels,
        }
        columns = [pa.ListArray.from_arrays(batch.cu_seqlens, items) for items in lists.values()]
        columns.append(pa.array(batch.next_sentence_labels))
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))

    def close(self) -> None:
        """Complete the file; of a folder, all that `load_from_disk` looks for."""
        self._writer.close()
        if not self._is_parquet and self._raw.exists():
            import datasets

            datasets.disable_progress_bars()  # there is one of ours already
            data_set = datasets.Dataset.from_file(str(self._raw))
            data_set.save_to_disk(str(self.path))
            del data_set
            self._raw.unlink()
