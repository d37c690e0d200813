"""Finding inputs: which there are behind names, globs, folders and ids."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ds_bert.errors import DataError
from ds_bert.files import DATA_SET
from ds_bert.text.corpora import parse_groups
from ds_bert.text.hf_datasets import PREFIX, dataset_folder, hub_dataset, is_dataset_folder
from ds_bert.text.pipes import spool
from ds_bert.text.remote import RemotePath, find_remote, is_address
from ds_bert.text.sentences import split_sentences
from ds_bert.text.source import Input
from ds_bert.text.streams import compression, reading
from ds_bert.text.tables import CsvInput, JsonInput, ParquetInput, RowInput

__all__ = ["TEXT_COLUMN", "Input", "TextCorpus", "find_corpora", "find_inputs"]

TEXT_COLUMN = "text"
STANDARD_INPUT = "-"
_TABLES: dict[str, type[RowInput]] = {
    ".jsonl": JsonInput,
    ".ndjson": JsonInput,
    ".json": JsonInput,
    ".csv": CsvInput,
    ".tsv": CsvInput,
    ".parquet": ParquetInput,
}
_ARCHIVES = {".tar", ".tgz", ".zip", ".7z"}


class TextCorpus(NamedTuple):
    """The text of one corpus.

    Attributes:
        name: of the corpus; empty where the text is not divided into corpora.
        weight: see `ds_bert.instances.mixture`; None: not given.
        inputs: in order.
    """

    name: str
    weight: float | None
    inputs: list[Input]


def find_inputs(patterns: Sequence[str], **options: Any) -> list[Input]:
    """The inputs of all corpora; see `find_corpora`."""
    return [item for corpus in find_corpora(patterns, **options) for item in corpus.inputs]


def find_corpora(
    patterns: Sequence[str],
    *,
    text_column: str = TEXT_COLUMN,
    sentence_splitter: str | None = None,
    spool_folder: Path | None = None,
    leave_out: Path | None = None,
) -> list[TextCorpus]:
    """Inputs of a list of names, by corpus.

    Args:
        patterns: files, globs (with ** for any depth), folders (all files of a known kind below
            them; or a data set of `save_to_disk`), hf:OWNER/NAME of the hub, "-" for standard
            input; each also a comma list of them, with NAME= before it and :WEIGHT behind it if
            it is one of several corpora (`ds_bert.text.corpora`). The suffix of a file says what it
            is; a suffix that is not known means text.
        text_column: column to read, of tables and data sets.
        sentence_splitter: language code; None: lines are sentences already.
        spool_folder: where to keep what comes through a pipe; None: the working folder.
        leave_out: a file that is never an input (the vocabulary), or a folder with such files.

    Returns:
        The corpora in the order given, one without a name if none has one; their inputs likewise,
        those of one glob or folder sorted, none twice.

    Raises:
        ConfigurationError: the language is no code, a package for it is not installed, or a pipe
            cannot be kept.
        DataError: a file is absent or an archive, a glob or folder has no file.
        SourceUnavailable: a place cannot be looked at.
    """
    corpora: list[TextCorpus] = []
    owners: dict[str, str] = {}
    for name, group, weight in parse_groups(patterns):
        given = found = _find(group, text_column, spool_folder or Path())
        if leave_out is not None:
            own = leave_out.resolve()
            found = {k: v for k, v in found.items() if not Path(k).is_relative_to(own)}
        if not found:
            of = f" of corpus {name}" if name else ""
            but = f" but what is left out ({leave_out})" if given else ""
            raise DataError(f"no input{of}{but}: name text files with --input_file")
        for place, item in found.items():
            if owners.setdefault(place, name) != name:
                raise DataError(
                    f"{item} is in corpus {owners[place]} and in {name}; expected it in one of them"
                )
        inputs = list(found.values())
        if sentence_splitter:
            inputs = split_sentences(inputs, sentence_splitter)
        corpora.append(TextCorpus(name, weight, inputs))
    return corpora


def _find(patterns: Sequence[str], text_column: str, spool_folder: Path) -> dict[str, Input]:
    """Inputs by what they have in common with others that are the same."""
    found: dict[str, Input] = {}
    for pattern in patterns:
        with reading(pattern):
            for item in _matches(pattern, text_column, spool_folder):
                found.setdefault(_place(item), item)
    return found


def _place(item: Input) -> str:
    if isinstance(item.path, RemotePath):
        return item.path.url
    return str(Path(str(item)).resolve())


def _matches(pattern: str, text_column: str, spool_folder: Path) -> Iterator[Input]:
    path = Path(pattern)
    if pattern == STANDARD_INPUT:
        yield spool(path, sys.stdin.buffer, spool_folder)
    elif is_address(pattern):
        yield from (_file_input(file, text_column) for file in find_remote(pattern))
    elif pattern.startswith(PREFIX):
        yield hub_dataset(pattern, text_column)
    elif path.is_fifo():
        with path.open("rb") as pipe:
            yield spool(path, pipe, spool_folder)
    elif is_dataset_folder(path):
        yield dataset_folder(path, text_column)
    else:
        files = _files_below(path) if path.is_dir() else _files_named(pattern)
        yield from (_file_input(file, text_column) for file in files)


def _files_named(pattern: str) -> list[Path]:
    if Path(pattern).exists():
        return [Path(pattern)]
    if not glob.has_magic(pattern):
        raise DataError(
            f"input file {pattern} does not exist; name text files with --input_file, and data "
            f"sets of the Hugging Face hub as {PREFIX}OWNER/NAME"
        )
    matches = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    files = [match for match in matches if not match.is_dir()]
    if not files:
        raise DataError(f"no file matches '{pattern}'; name text files with --input_file")
    return files


def _files_below(folder: Path) -> list[Path]:
    """Files of a known kind, without hidden ones and those of our own data sets."""
    files = [
        path
        for path in sorted(_walk(folder))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (path.parent / DATA_SET).exists()
        and (_suffix(path) in {".txt", *_TABLES} or compression(path))
        and _suffix(path) not in _ARCHIVES
    ]
    if not files:
        kinds = ", ".join([".txt", *_TABLES])
        raise DataError(
            f"folder {folder} has no file of a known kind ({kinds}, also compressed); name the "
            f"files, for example '{folder}/*'"
        )
    return files


def _walk(folder: Path) -> Iterator[Path]:
    """All below a folder; unlike `rglob` it leaves nothing out that cannot be read."""

    def refuse(error: OSError) -> None:
        with reading(error.filename):
            raise error

    for place, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(place, name) for name in names)


def _suffix(path: Path) -> str:
    """The suffix that says what is in a file, without that of the compression."""
    return (path.with_suffix("") if compression(path) else path).suffix.lower()


def _file_input(path: Path, text_column: str) -> Input:
    kind = _TABLES.get(_suffix(path))
    if _suffix(path) in _ARCHIVES or (kind is ParquetInput and compression(path)):
        raise DataError(f"{path} must be unpacked first; expected text or a table, not an archive")
    return Input(path) if kind is None else kind(path, text_column)
