"""Data sets of ours in the files of other programs; each file appears whole or not at all."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from ds_bert.bridges.formats import TEXT, format_by_name, writer
from ds_bert.bridges.text import write_text
from ds_bert.dataset.store import InstanceTable, TokenStore
from ds_bert.errors import ConfigurationError, require
from ds_bert.files import OutputFolder, is_open_at, sync_folder, take_lock
from ds_bert.instances.collate import collate
from ds_bert.preprocessing.job import Result, preprocess
from ds_bert.preprocessing.options import PreprocessOptions
from ds_bert.progress import Progress
from ds_bert.text.hf_datasets import is_dataset_folder
from ds_bert.text.streams import compression

_ROWS = 1024  # of each file at once


class OutputFile:
    """A hidden file beside the final one, to write in; `publish` renames it into place.

    Attributes:
        final: the file to make or to replace.
        path: where to write.
    """

    def __init__(self, final: Path) -> None:
        """Nothing is created before the context is entered."""
        self.final, self.path = final, final.with_name(f".{final.name}.partial")

    def __enter__(self) -> Self:
        self.final.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            take_lock(self._lock)
        except BlockingIOError:
            os.close(self._lock)
            raise ConfigurationError(
                f"another run is writing {self.final}; wait for it or name another file"
            ) from None
        return self

    def publish(self) -> None:
        """Put the file into place, forced to disk."""
        sync_folder(self.path)  # also of a file
        os.replace(self.path, self.final)
        sync_folder(self.final.parent)

    def __exit__(self, *exception: object) -> None:
        if is_open_at(self._lock, self.path):
            with suppress(FileNotFoundError):
                self.path.unlink()
        os.close(self._lock)


Output = OutputFile | OutputFolder


def export(
    store: TokenStore,
    max_seq_length: int | None,
    name: str,
    paths: Sequence[Path],
    *,
    overwrite: bool = False,
) -> int:
    """Write the instances of one length, or the text, into files of a format.

    Args:
        store: the data set.
        max_seq_length: which instances; None: those of the only length.
        name: of the format.
        paths: files; instance k goes into file k mod n, as Google's script does it. Of `datasets`
            folders, or files that end in .parquet.
        overwrite: replace what is there.

    Returns:
        how many instances were written, or documents of text.

    Raises:
        ConfigurationError: a file exists or cannot be written, the disk is full, or it is not clear
            which instances to write.
        DataError: there are none of this length.
    """
    require_new(paths, name, overwrite)
    if name == TEXT:
        require(len(paths) == 1, "--output_file", ",".join(map(str, paths)), "one file of text")
        with _outputs(paths, name) as (output,):
            write_text(store, _place(output))
            output.publish()
        return store.num_documents
    table = store.instances(_the_length(store, max_seq_length))
    with _outputs(paths, name) as outputs:
        _write(table, name, outputs)
        for output in outputs:
            output.publish()
    return len(table)


def _the_length(store: TokenStore, given: int | None) -> int:
    lengths = store.sequence_lengths
    if given is None and len(lengths) > 1:
        raise ConfigurationError(
            f"{store.folder} has instances of {', '.join(map(str, lengths))} tokens, expected one "
            "length; choose with --max_seq_length"
        )
    return given or lengths[0]


def _write(table: InstanceTable, name: str, outputs: Sequence[Output]) -> None:
    """Write all instances, those of epoch 0 where masks are not stored."""
    num_files, num_rows = len(outputs), len(table)
    with ExitStack() as stack, Progress("export") as progress:
        writers = []
        for number, output in enumerate(outputs):
            count = len(range(number, num_rows, num_files))
            writers.append(writer(name)(_place(output), table, count, output.final))
            stack.callback(writers[-1].close)
        for first in range(0, num_rows, _ROWS * num_files):
            last = min(first + _ROWS * num_files, num_rows)
            for number, each in enumerate(writers):
                rows = np.arange(first + number, last, num_files)
                if len(rows):
                    each.write(collate(table, rows, np.zeros_like(rows), table.options.random_seed))
            progress.update(last / num_rows, instances=last - first)


def _place(output: Output) -> Path:
    return output.folder if isinstance(output, OutputFolder) else output.path


@contextmanager
def _outputs(paths: Sequence[Path], name: str) -> Iterator[list[Output]]:
    outputs: list[Output] = [
        OutputFolder(path) if _is_folder(path, name) else OutputFile(path) for path in paths
    ]
    try:
        with ExitStack() as stack:
            for output in outputs:
                stack.enter_context(output)
            yield outputs
    except OSError as error:
        raise ConfigurationError(
            f"{paths[0]} cannot be written ({error.strerror or error}); mend the cause or name "
            "another place, and run the same command again"
        ) from error


def _is_folder(path: Path, name: str) -> bool:
    return name == "datasets" and path.suffix.lower() != ".parquet"


def require_new(paths: Sequence[Path], name: str, overwrite: bool) -> None:
    """Refuse to replace what the user may want to keep.

    Raises:
        ConfigurationError: a file is there and `overwrite` is not set, or it is something else.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigurationError(f"{', '.join(map(str, paths))}: expected different files")
    for path in paths:
        if (suffix := compression(path)) and (name, suffix) != ("jsonl", ".gz"):
            raise ConfigurationError(
                f"{path}: {name} is not written compressed ({suffix}); leave that off"
                + (", or take .gz" if name == "jsonl" else "")
            )
        if _is_folder(path, name):
            is_kind = path.is_dir() and (is_dataset_folder(path) or not any(path.iterdir()))
            is_taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        else:
            is_kind, is_taken = path.is_file(), path.exists()
        if is_taken and not is_kind:
            raise ConfigurationError(
                f"{path} exists and is nothing of {name}, so it is left alone; name another place"
            )
        if is_taken and not overwrite:
            raise ConfigurationError(
                f"{path} exists, expected a new file; add --overwrite or name another one"
            )


def preprocess_to_files(
    options: PreprocessOptions, say: Callable[[str], object] = lambda line: None
) -> Result | None:
    """Make instances of text and write them into files, by way of a data set that is removed.

    Killed at any moment, the same call goes on with the instances, and writes the files anew.

    Args:
        options: of the user; `output_dir` is a file of instances, or a comma list of such. See
            `ds_bert.bridges.formats.with_defaults_of_files`.
        say: gets lines that tell what is done.

    Returns:
        what preprocessing did; None after a dry run.

    Raises:
        ConfigurationError: such files cannot hold what is asked for, or cannot be written.
        DataError: input or vocabulary is unusable.
    """
    paths = [Path(name.strip()) for name in options.output_dir.split(",") if name.strip()]
    name = _format_of(options, paths)
    require_new(paths, name, options.overwrite)
    folder = paths[0].with_name(f".{paths[0].name}.data")
    result = preprocess(replace(options, output_dir=str(folder)), say)
    if result is not None:
        number = export(TokenStore.open(folder), None, name, paths, overwrite=options.overwrite)
        shutil.rmtree(folder)
        say(f"{number:,} instances: {', '.join(map(str, paths))}")
    return result


def _format_of(options: PreprocessOptions, paths: Sequence[Path]) -> str:
    cure = "name an --output_dir and take files out of it with ds-bert convert-data"
    lengths = ",".join(map(str, options.max_seq_length))
    require(len(options.max_seq_length) == 1, "--max_seq_length", lengths, f"one length; {cure}")
    require(options.fraction == 0, "--validation_fraction", options.fraction, f"0; {cure}")
    name, *others = {format_by_name(path) for path in paths}
    if name is None or others:
        found, expected = options.output_dir, f"files of one format; {cure}"
        raise ConfigurationError(f"--output_file: found {found!r}, expected {expected}")
    return name
