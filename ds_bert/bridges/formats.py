"""What a format gives and takes, which formats there are, and what a file is by its content."""

import glob
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.options import EXACT, FAST, MLM_NSP, PIECE, WORD
from ds_bert.errors import DataError
from ds_bert.text.hf_datasets import is_dataset_folder
from ds_bert.text.source import file_state, size_and_hash
from ds_bert.text.streams import compression, open_plain, open_raw
from ds_bert.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:  # so that commands look at names of files without loading numba
    from ds_bert.bridges.columns import Columns
    from ds_bert.dataset.store import InstanceTable
    from ds_bert.instances.collate import BatchArrays

_MODULES = {"tfrecord": "tfrecord", "hdf5": "hdf5", "jsonl": "jsonl", "datasets": "arrow"}
FORMATS = tuple(_MODULES)
TEXT = "text"  # sentences: written, and read by preprocessing alone
_WRITERS = {
    **{name: (module, "Writer") for name, module in _MODULES.items()},
    "hdf5_variable": ("hdf5", "VariableWriter"),
}
WRITABLE = tuple(_WRITERS)
_SUFFIXES = {
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
    ".tf_record": "tfrecord",
    ".hdf5": "hdf5",
    ".h5": "hdf5",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "datasets",
}
_HEAD_BYTES = 4096
BEYOND = 2**62  # an offset behind the end of any file


class Place(NamedTuple):
    """A place in a file, between two records.

    Attributes:
        offset: where the next record begins, in bytes or records; the format decides.
        number: number of the record before it, from 1; in text that of its line.
    """

    offset: int = 0
    number: int = 0


class Piece(NamedTuple):
    """Some records in a row.

    Attributes:
        columns: the records.
        numbers: int64 [N], number of each in its file, from 1.
        problems: by row, what made a record unreadable.
        place: behind them.
        has_masks: whether they say which tokens are masked.
    """

    columns: "Columns"
    numbers: NDArray[np.int64]
    problems: dict[int, str]
    place: Place
    has_masks: bool = True


class InstanceFile(ABC):
    """Finished instances of another program: a file, or a folder that stands for one.

    Attributes:
        path: where it is.
        vocabulary: the vocabulary of its ids or tokens.
    """

    format: ClassVar[str]
    record: ClassVar[str] = "record"  # what a record is called in messages

    def __init__(self, path: Path, vocabulary: Vocabulary) -> None:
        """Nothing is read yet."""
        self.path, self.vocabulary = path, vocabulary

    def __str__(self) -> str:
        return str(self.path)

    @staticmethod
    @abstractmethod
    def begins_with(head: bytes) -> bool:
        """Whether a file of this format can begin with these bytes, a few thousand."""

    @abstractmethod
    def pieces(self, place: Place) -> Iterator[Piece]:
        """The records from a place on.

        Raises:
            ConfigurationError: a package that reads it is not installed.
            DataError: it cannot be read at all, or not any further.
            SourceUnavailable: the disk does not give it now.
        """

    @abstractmethod
    def size(self) -> int:
        """The offset of its end, at least about; 0: not known."""

    def state(self) -> object:
        """What differs when it was written or replaced."""
        return file_state(self.path)

    def describe(self) -> dict[str, Any]:
        """What decides the content, for the fingerprint: bytes and hash."""
        return size_and_hash(open_raw(self.path))

    def damaged(self, number: int, problem: str) -> DataError:
        """The error for a record."""
        return DataError(
            f"{self}, {self.record} {number:,}: {problem}; mend the file, or add --skip_damaged to "
            "leave such records out"
        )


class InstanceWriter(ABC):
    """Writes instances into one file.

    Attributes:
        path: where to write, a file or a folder that stands for one.
        table: where the instances are from.
        num_rows: how many of them will be written.
        final: the name that the file will have; its suffix may say how to write it.
    """

    def __init__(self, path: Path, table: "InstanceTable", num_rows: int, final: Path) -> None:
        """Open the file."""
        self.path, self.table, self.num_rows, self.final = path, table, num_rows, final

    @abstractmethod
    def write(self, batch: "BatchArrays") -> None:
        """Append some instances."""

    @abstractmethod
    def close(self) -> None:
        """Complete the file; also called, after an error, where it will be thrown away."""


def reader(name: str) -> type[InstanceFile]:
    """The class that reads a format."""
    return importlib.import_module(f"ds_bert.bridges.{_MODULES[name]}").File


def writer(name: str) -> type[InstanceWriter]:
    """The class that writes a format."""
    module, kind = _WRITERS[name]
    return getattr(importlib.import_module(f"ds_bert.bridges.{module}"), kind)


def format_by_name(path: Path) -> str | None:
    """The format that a file's suffix names, or None."""
    bare = path.with_suffix("") if compression(path) else path
    return _SUFFIXES.get(bare.suffix.lower())


def names_instance_files(names: str) -> bool:
    """Whether a comma list names files of instances, by their suffixes."""
    return any(format_by_name(Path(name.strip())) for name in names.split(",") if name.strip())


def with_defaults_of_files(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of preprocessing, with the defaults of Google's script where it writes files.

    Args:
        given: what the user gave, by the fields of `PreprocessOptions`.

    Returns:
        the same, and where `output_dir` names files of instances: exact mode (of what Google's
        script knows), one length, no validation part.
    """
    if not names_instance_files(given.get("output_dir", "")):
        return dict(given)
    is_pairs = given.get("objective", MLM_NSP) == MLM_NSP
    is_google = is_pairs and given.get("masking_unit") in (None, PIECE, WORD)
    mode = EXACT if is_google else FAST
    return {"mode": mode, "validation_fraction": 0.0, "max_seq_length": (128,), **given}


def format_by_content(path: Path) -> str | None:
    """The format of a file or folder by what is in it; None: something else, perhaps text.

    Raises:
        SourceUnavailable: it cannot be read.
    """
    if path.is_dir():
        return "datasets" if is_dataset_folder(path) else None
    with open_plain(path) as stream:
        head = stream.read(_HEAD_BYTES)
    return next((name for name in FORMATS if reader(name).begins_with(head)), None)


def find_files(names: Sequence[str]) -> list[Path]:
    """Files of instances.

    Args:
        names: files, globs (with ** for any depth), folders, folders of `save_to_disk`; each also
            a comma list of them.

    Returns:
        those of one glob or folder sorted, none twice.

    Raises:
        DataError: a name stands for no file.
    """
    found: dict[Path, Path] = {}
    for name in filter(None, map(str.strip, ",".join(names).split(","))):
        for path in _matches(name):
            found.setdefault(path.resolve(), path)
    if not found:
        raise DataError("no input: name files with --input_file")
    return list(found.values())


def _matches(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir() and not is_dataset_folder(path):
        inside = (file for file in sorted(path.iterdir()) if not file.name.startswith("."))
        files = [file for file in inside if format_by_content(file) is not None]
        kind = f"folder {name} holds no file"
    elif path.exists():
        return [path]
    else:
        files = [Path(match) for match in sorted(glob.glob(name, recursive=True))]
        files = [file for file in files if not file.is_dir() or is_dataset_folder(file)]
        kind = f"no file matches '{name}'" if glob.has_magic(name) else f"{name} does not exist"
    if not files:
        raise DataError(
            f"{kind}, expected finished instances ({', '.join(FORMATS)}); name such files"
        )
    return files


def open_at(path: Path, offset: int) -> BinaryIO:
    """What is in a file, decompressed, from a byte on."""
    stream = open_plain(path)
    if stream.seekable():
        stream.seek(offset)
    else:
        while offset > 0 and (piece := stream.read(min(offset, 1 << 20))):
            offset -= len(piece)
    return stream


def open_files(
    paths: Sequence[Path], vocabulary: Vocabulary, name: str | None = None
) -> list[InstanceFile]:
    """Files of one format, ready to be read.

    Args:
        paths: where they are.
        vocabulary: of their ids or tokens.
        name: of the format; None: by the content of each.

    Raises:
        DataError: the content of a file is of no format, or they have several.
    """
    found = {path: name or format_by_content(path) for path in paths}
    for path, each in found.items():
        if each is None:
            raise DataError(
                f"{path} is none of {', '.join(FORMATS)}, expected finished instances; of text, "
                f"ds-bert preprocess --input_file {path} makes them"
            )
    if len(set(found.values())) > 1:
        (first, one), (second, other) = list({kind: p for p, kind in found.items()}.items())[:2]
        raise DataError(
            f"{one} is {first} and {other} is {second}, expected files of one format; import them "
            "one by one"
        )
    return [reader(str(each))(path, vocabulary) for path, each in found.items()]
