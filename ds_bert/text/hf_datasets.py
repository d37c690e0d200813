"""Hugging Face data sets as input: folders of `save_to_disk`, and ids on the hub."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from ds_bert.errors import DataError, SourceUnavailable
from ds_bert.text.source import file_state, size_and_hash
from ds_bert.text.tables import RowInput

PREFIX = "hf:"
SPLIT = "train"
_BATCH_ROWS = 256


@dataclass(frozen=True)
class DatasetInput(RowInput):
    """One split of a data set.

    Attributes:
        path: folder, or id on the hub.
        text_column: name of the column.
        config: which of the hub's configurations; None: a folder.
        split: which part; of a folder, the one that it holds.
    """

    config: str | None = None
    split: str = SPLIT
    is_folder: bool = True

    def __str__(self) -> str:
        if self.is_folder:
            return str(self.path)
        return f"{PREFIX}{self.path}:{self.config or ''}:{self.split}"

    @property
    def num_bytes(self) -> int:
        """Size of the data as far as it is known without reading it."""
        data_set = self._load()
        if self.is_folder:
            return data_set.data.nbytes
        splits = data_set.info.splits or {}
        return splits[self.split].num_bytes or 0 if self.split in splits else 0

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Place and text of each row, numbered from 1."""
        data_set, numbers = self._load(), count(1)
        names = data_set.column_names
        if names is not None and self.text_column not in names:
            raise self.no_column("columns", names)
        for batch in self._batches(data_set):
            if self.text_column not in batch:
                raise self.no_column("columns", batch)
            for text in batch[self.text_column]:
                yield f"row {next(numbers)}", text

    def class_names(self) -> list[str]:
        """Names of a column of ClassLabel, or of lists of them."""
        feature = (self._load().features or {}).get(self.text_column)
        return list(getattr(getattr(feature, "feature", feature), "names", None) or [])

    def state(self) -> object:
        """That of the tables of a folder. What was opened on the hub stays at its revision."""
        if not self.is_folder:
            return None
        return {path: file_state(path) for path in self.path.glob("*.arrow")}

    def describe(self) -> dict[str, Any]:
        """As for text, but bytes and hash are of the text itself: reads all of it once."""
        name = self.path.name if self.path.is_absolute() else str(self)
        return {
            "name": name,
            **size_and_hash(self.open()),
            "format": "datasets",
            "text_column": self.text_column,
        }

    def _batches(self, data_set: Any) -> Iterator[dict[str, Any]]:
        try:
            yield from data_set.iter(batch_size=_BATCH_ROWS)
        except Exception as error:  # whatever the network and the file formats raise
            raise SourceUnavailable(f"cannot read {self}: {_first_line(error)}") from error

    def _load(self) -> Any:
        try:
            return _load(str(self.path), self.config, self.split, self.is_folder)
        except Exception as error:
            raise SourceUnavailable(
                f"cannot open the data set {self}: {_first_line(error)}; expected a folder made by "
                f"save_to_disk, or {PREFIX}OWNER/NAME, {PREFIX}OWNER/NAME:CONFIG:SPLIT"
            ) from error


@cache
def _load(name: str, config: str | None, split: str, is_folder: bool) -> Any:
    import datasets

    if is_folder:
        return datasets.load_from_disk(name)
    return datasets.load_dataset(name, config, split=split, streaming=True)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def is_dataset_folder(path: Path) -> bool:
    """Whether `save_to_disk` has made this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def dataset_folder(path: Path, text_column: str) -> DatasetInput:
    """The data set of a folder; where that holds several splits, the one for training."""
    if (path / "dataset_dict.json").is_file():
        path = path / SPLIT
    return DatasetInput(path, text_column)


def hub_dataset(name: str, text_column: str) -> DatasetInput:
    """The data set of a name like hf:OWNER/NAME, with :CONFIG and :SPLIT after it or not."""
    path, config, split, *rest = [*name.removeprefix(PREFIX).split(":"), "", ""]
    if not path or any(rest):
        raise DataError(f"{name}: expected {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME:CONFIG:SPLIT")
    return DatasetInput(Path(path), text_column, config or None, split or SPLIT, is_folder=False)
