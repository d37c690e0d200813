"""A text file as input; the base of all other inputs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import xxhash

from ds_bert.text.remote import RemotePath, known, state
from ds_bert.text.streams import compression, open_plain, open_raw, plain_bytes, reading

_PIECE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Input:
    """One source of text: a UTF-8 file with a sentence on each line, which may be compressed.

    Subclasses read something else and give the same: sentences on lines, a blank line after each
    document.

    Attributes:
        path: the file, or the name of what stands for it.
    """

    path: Path
    content: ClassVar[str] = "the file"  # what `open` gives, in messages

    def __str__(self) -> str:
        return str(self.path)

    @property
    def num_bytes(self) -> int:
        """About the size of the text, for progress and estimates; 0: not known."""
        return plain_bytes(self.path)

    @property
    def unsplit(self) -> "Input":
        """The input before its sentences are split: its lines are those of the file."""
        return self

    def open(self) -> BinaryIO:
        """A stream of the text, seekable or not.

        Raises:
            ConfigurationError: a package that is needed to read it is not installed.
            DataError: it cannot be opened. Reading raises it too, where the content is unusable.
        """
        return open_plain(self.path)

    def state(self) -> object:
        """What differs when the input was written or replaced: size, time of change, inode.

        Raises:
            SourceUnavailable: it is gone.
        """
        return file_state(self.path)

    def describe(self) -> dict[str, Any]:
        """What decides the text, for meta.json and the fingerprint.

        Returns:
            `name` (without the folders of an absolute path), `bytes` and `xxh3_128` of the file as
            it is on disk, and `format` if it is not plain text. Of a remote file the checksum that
            its server gives, `checksum`, stands for the hash: it need not be read for that.
        """
        suffix = compression(self.path)
        name = self.path.name if self.path.is_absolute() else self.path.as_posix()
        kind = {"format": suffix[1:]} if suffix else {}
        return {"name": name, **self._content(), **kind}

    def _content(self) -> dict[str, Any]:
        if isinstance(self.path, RemotePath):
            told = known(self.path)
            if told.checksum is not None and told.num_bytes is not None:
                return {"bytes": told.num_bytes, "checksum": told.checksum}
        return size_and_hash(self._open_raw())

    def _open_raw(self) -> BinaryIO:
        return open_raw(self.path)


def file_state(path: Path) -> tuple[object, ...]:
    """See `Input.state`. Not the time of the last change of the inode: a new hard link is none."""
    if isinstance(path, RemotePath):
        return state(path)
    with reading(path):
        status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino


def size_and_hash(stream: BinaryIO) -> dict[str, Any]:
    """`bytes` and `xxh3_128` of all that a stream gives; closes it."""
    digest, num_bytes = xxhash.xxh3_128(), 0
    with stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
            num_bytes += len(piece)
    return {"bytes": num_bytes, "xxh3_128": digest.hexdigest()}
