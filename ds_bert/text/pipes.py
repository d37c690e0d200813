"""Standard input and pipes: kept in a file, since text is read more than once."""

import io
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ds_bert.errors import ConfigurationError
from ds_bert.text.source import Input


@dataclass(frozen=True)
class SpooledInput(Input):
    """Plain text that came through a pipe.

    Attributes:
        file: holds the text; it has no name, so nothing is left behind however the process ends.
    """

    file: BinaryIO = field(compare=False)

    @property
    def num_bytes(self) -> int:
        """Size of the text."""
        return os.fstat(self.file.fileno()).st_size

    def open(self) -> BinaryIO:
        """A seekable stream of the text; several do not disturb each other."""
        return io.BufferedReader(_ReadAt(self.file.fileno()))

    def state(self) -> object:
        """Nobody else can write to a file without a name."""
        return None

    def _open_raw(self) -> BinaryIO:
        return self.open()


class _ReadAt(io.RawIOBase):
    """A file descriptor with a position of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = os.preadv(self._descriptor, [buffer], self._position)
        self._position += size
        return size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_CUR: self._position, os.SEEK_END: os.fstat(self._descriptor).st_size}
        self._position = start.get(whence, 0) + offset
        return self._position


def spool(name: Path, pipe: BinaryIO, folder: Path) -> SpooledInput:
    """Read a pipe to its end.

    Args:
        name: what to call it in messages and meta.json.
        pipe: the text.
        folder: where to keep the text; if it does not exist yet, the nearest one above it.

    Raises:
        ConfigurationError: the folder cannot be written, or the disk is full.
    """
    folder = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the input
        shutil.copyfileobj(pipe, file)
        file.flush()
    except OSError as error:
        raise ConfigurationError(
            f"cannot keep the text of {name} in {folder}: {error.strerror}; give a file instead"
        ) from error
    return SpooledInput(name, file)
