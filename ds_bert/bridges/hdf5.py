"""NVIDIA's HDF5 files, in both layouts: rows padded to one width, or lists of their own lengths.

Sources: NVIDIA/DeepLearningExamples, PyTorch/LanguageModeling/BERT/create_pretraining_data.py
(padded); mlcommons/training_results_v2.1, NVIDIA's BERT, input_preprocessing (variable length).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ds_bert.bridges.columns import (
    Columns,
    Lists,
    lists_of_counts,
    lists_of_rows,
    ones_at_front,
    padded,
)
from ds_bert.bridges.formats import InstanceFile, InstanceWriter, Piece, Place
from ds_bert.dataset.store import InstanceTable
from ds_bert.errors import ConfigurationError, DataError
from ds_bert.instances.collate import BatchArrays

_ROWS = 1024  # read at once
_CHUNK_ROWS = 1024  # compressed as one, written at once
_LISTS = ("input_ids", "segment_ids", "masked_lm_positions", "masked_lm_ids")
_MASK, _LABELS = "input_mask", "next_sentence_labels"
_PACKED = "packed_input_len"
_DTYPES = {  # of NVIDIA's script
    "input_ids": "i4",
    "input_mask": "i1",
    "segment_ids": "i1",
    "masked_lm_positions": "i4",
    "masked_lm_ids": "i4",
    "next_sentence_labels": "i1",
}


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{path}: HDF5 needs the package h5py; run `pip install h5py`"
        ) from error
    return h5py


class File(InstanceFile):
    """One HDF5 file."""

    format, record = "hdf5", "row"

    @staticmethod
    def begins_with(head: bytes) -> bool:
        """The signature of HDF5."""
        return head.startswith(b"\x89HDF\r\n\x1a\n")

    def size(self) -> int:
        """Its rows."""
        with self._open() as file:
            return len(file[_LABELS])

    def pieces(self, place: Place) -> Iterator[Piece]:
        """Some rows at a time."""
        with self._open() as file:
            num_rows = len(file[_LABELS])
            for first in range(place.offset, num_rows, _ROWS):
                yield from _read(file, first, min(first + _ROWS, num_rows))

    def _open(self) -> Any:
        h5py = _h5py(self.path)
        try:
            file = h5py.File(self.path, "r", locking=False)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{self} cannot be opened ({_first_line(error)}): damaged or no HDF5, expected a "
                "file of NVIDIA's create_pretraining_data.py; copy or make it again"
            ) from error
        try:
            self._check(h5py, file)
        except BaseException:
            file.close()
            raise
        return file

    def _check(self, h5py: Any, file: Any) -> None:
        names = (*_LISTS, _LABELS, *((_MASK,) if _MASK in file else ()))
        lacking = [name for name in names if not isinstance(file.get(name), h5py.Dataset)]
        if lacking:
            raise DataError(
                f"{self} holds {', '.join(file) or 'nothing':.200}, expected {', '.join(names)}; "
                "is it a file of NVIDIA's create_pretraining_data.py?"
            )
        if _PACKED in file:
            raise DataError(
                f"{self} holds packed sequences ({_PACKED}), expected one instance in a row; give "
                "the files that it was packed from"
            )
        if len({len(file[name]) for name in names}) > 1:
            found = ", ".join(f"{len(file[name]):,} {name}" for name in names)
            raise DataError(f"{self} has {found}, expected as many of each; make it again")
        for name in names:
            array = file[name]
            kind = h5py.check_vlen_dtype(array.dtype)
            wanted = 1 if kind is not None or name == _LABELS else 2
            if (kind or array.dtype).kind not in "iub" or array.ndim != wanted:
                raise DataError(
                    f"{self}: {name} is {array.dtype} {list(array.shape)}, expected integers, a "
                    "row for each instance; make the file again"
                )


def _read(file: Any, first: int, last: int) -> Iterator[Piece]:
    """Rows `first` to `last` - 1; where they cannot be read, those of them that can."""
    try:
        arrays = {name: file[name][first:last] for name in (*_LISTS, _LABELS)}
        mask = file[_MASK][first:last] if _MASK in file else None
    except (OSError, RuntimeError) as error:
        middle = (first + last) // 2
        if middle > first:
            yield from _read(file, first, middle)
            yield from _read(file, middle, last)
            return
        none = Lists(*np.zeros((3, 1), np.int64))
        zero = none.counts
        columns = Columns(none, none, zero, none, none, zero, zero)
        problem = f"it cannot be read ({_first_line(error)})"
        yield Piece(columns, np.array([last]), {0: problem}, Place(last, last))
        return
    yield _piece(arrays, mask, first)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _piece(arrays: dict[str, NDArray], mask: NDArray | None, first: int) -> Piece:
    lists = {name: _lists(arrays[name]) for name in _LISTS}
    labels, problems = _labels(arrays[_LABELS])
    ids, positions = lists["input_ids"], lists["masked_lm_positions"]
    columns = Columns(
        ids,
        lists["segment_ids"],
        ids.counts if mask is None else ones_at_front(_lists(mask)),
        positions,
        lists["masked_lm_ids"],
        _counts_before_zero(positions),
        labels,
    )
    last = first + len(labels)
    return Piece(columns, np.arange(first + 1, last + 1), problems, Place(last, last))


def _lists(rows: NDArray) -> Lists:
    if rows.dtype == object:  # of variable length
        counts = np.fromiter(map(len, rows), np.int64, len(rows))
        return lists_of_counts(np.concatenate(list(rows)), counts)
    return lists_of_rows(rows)


def _labels(rows: NDArray) -> tuple[NDArray[np.int64], dict[int, str]]:
    if rows.dtype != object:
        return rows.astype(np.int64), {}
    problems = {
        number: f"{len(row)} numbers in {_LABELS}, expected one"
        for number, row in enumerate(rows)
        if len(row) != 1
    }
    return np.array([row[0] if len(row) else 0 for row in rows], np.int64), problems


def _counts_before_zero(positions: Lists) -> NDArray[np.int64]:
    """Masked tokens of each row: padding is 0, where [CLS] stands, which is never masked."""
    is_mask = (positions.values != 0).astype(np.int64)
    return ones_at_front(Lists(is_mask, positions.starts, positions.counts))


class Writer(InstanceWriter):
    """The padded rows of NVIDIA's script."""

    def __init__(self, path: Path, table: InstanceTable, num_rows: int, final: Path) -> None:
        """Create the arrays at their final size."""
        super().__init__(path, table, num_rows, final)
        self._h5py = _h5py(final)
        self._file = self._h5py.File(path, "w", locking=False)
        self._num_written = 0
        self._create()

    def _create(self) -> None:
        length, most = self.table.max_seq_length, self.table.max_predictions_per_seq
        widths = {name: length for name in ("input_ids", _MASK, "segment_ids")}
        widths |= {name: most for name in ("masked_lm_positions", "masked_lm_ids")}
        for name, dtype in _DTYPES.items():
            shape = (self.num_rows, widths[name]) if name in widths else (self.num_rows,)
            chunks = (min(self.num_rows, _CHUNK_ROWS), *shape[1:])
            self._file.create_dataset(
                name, shape, dtype, chunks=chunks, compression="gzip", compression_opts=1
            )

    def write(self, batch: BatchArrays) -> None:
        """Write the next rows."""
        arrays = padded(batch, self.table.max_seq_length, self.table.max_predictions_per_seq)
        last = self._num_written + len(batch.next_sentence_labels)
        self._write(arrays, self._num_written, last)
        self._num_written = last

    def _write(self, arrays: dict[str, NDArray], first: int, last: int) -> None:
        for name in _DTYPES:
            self._file[name][first:last] = arrays[name]

    def close(self) -> None:
        """Complete the file."""
        self._file.close()


class VariableWriter(Writer):
    """The lists of MLPerf's files, without padding and without a mask for it."""

    def _create(self) -> None:
        # NVIDIA's are 16 bits wide, which do not hold every vocabulary.
        ids = "i2" if self.table.store.vocabulary.size <= 2**15 else "i4"
        dtypes = {"segment_ids": "i1", "masked_lm_positions": "i2"}
        for name in _LISTS:
            dtype = self._h5py.vlen_dtype(np.dtype(dtypes.get(name, ids)))
            self._file.create_dataset(name, (self.num_rows,), dtype)
        self._file.create_dataset(_LABELS, (self.num_rows,), "i1")

    def _write(self, arrays: dict[str, NDArray], first: int, last: int) -> None:
        lengths = arrays["input_mask"].sum(axis=1)
        counts = arrays["masked_lm_weights"].sum(axis=1)
        for name, sizes in zip(_LISTS, (lengths, lengths, counts, counts), strict=True):
            array = self._file[name]
            rows = np.empty(last - first, array.dtype)
            cast = arrays[name].astype(self._h5py.check_vlen_dtype(array.dtype))
            for number, size in enumerate(sizes):
                rows[number] = cast[number, :size]
            # By the lower layer: the upper one takes lists of one length for a matrix.
            place = array.id.get_space()
            place.select_hyperslab((first,), (len(rows),))
            array.id.write(self._h5py.h5s.create_simple((len(rows),)), place, rows)
        self._file[_LABELS][first:last] = arrays[_LABELS]
