"""Text inputs: which there are, what identifies them, and a stream of the bytes of each."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from ds_bert.errors import DataError

_PIECE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Input:
    """One source of plain text, UTF-8.

    Attributes:
        path: a text file.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def num_bytes(self) -> int:
        """About how much there is to read, for progress and estimates."""
        return self.path.stat().st_size

    def open(self) -> BinaryIO:
        """A stream of the text.

        Raises:
            DataError: it cannot be opened.
        """
        try:
            return self.path.open("rb")
        except OSError as error:
            raise DataError(f"cannot read {self}: {error.strerror}") from error

    def describe(self) -> dict[str, Any]:
        """Name (without the folders of an absolute path), size and xxh3 hash, for meta.json."""
        digest, num_bytes = xxhash.xxh3_128(), 0
        with self.open() as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                num_bytes += len(piece)
        name = self.path.name if self.path.is_absolute() else self.path.as_posix()
        return {"name": name, "bytes": num_bytes, "xxh3_128": digest.hexdigest()}


def find_inputs(patterns: Sequence[str]) -> list[Input]:
    """Inputs of a list of names and globs.

    Args:
        patterns: names or globs (with ** for any depth), each also a comma list of them.

    Returns:
        The files in the order given, those of one glob sorted, none twice.

    Raises:
        DataError: a file is absent or a folder, or a glob matches no file.
    """
    found: dict[Path, Path] = {}
    for pattern in ",".join(patterns).split(","):
        if pattern.strip():
            for path in _matches(pattern.strip()):
                found.setdefault(path.resolve(), path)
    if not found:
        raise DataError("no input: name text files with --input_file")
    return [Input(path) for path in found.values()]


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name its files, for example '{path}/*.txt'")
    if path.exists():
        return [path]
    if not glob.has_magic(pattern):
        raise DataError(f"input file {path} does not exist; name text files with --input_file")
    matches = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    files = [match for match in matches if not match.is_dir()]
    if not files:
        raise DataError(f"no file matches '{pattern}'; name text files with --input_file")
    return files
