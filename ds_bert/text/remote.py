"""Files elsewhere: s3://, gs://, https://, hf:// and whatever else fsspec knows.

Reading goes on at its place after a connection is lost. A file is known by its size and by the
checksum that its server gives; only where there is none, all of it is read for a hash.
"""

import io
import os
import re
import time
from functools import cache
from pathlib import PosixPath
from typing import Any, NamedTuple

from ds_bert.errors import ConfigurationError, DataError
from ds_bert.retries import public, retried

LOOK_SECONDS = 10.0  # at least so long between two questions whether a file is still the same
_CONNECT_SECONDS, _SILENCE_SECONDS = 30, 60  # after these a connection counts as lost
_BLOCK_BYTES = 8 * 2**20  # asked for at once
_SKIP_BYTES = 2**20
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_PACKAGES = {
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az"), "adlfs"),
    "hf": "huggingface_hub",
}
# What a server may tell of the content, from the surest to the least sure.
_CHECKSUMS = ("sha256", "md5Hash", "md5", "Content-MD5", "Digest", "ETag", "etag", "blob_id")
_TIMES = ("Last-Modified", "LastModified", "updated", "created")


class State(NamedTuple):
    """What a server tells of a file.

    Attributes:
        num_bytes: its size; None: not told.
        checksum: of its content, such as "ETag: ..."; None: not told.
        time: of the last change, where there is no checksum; None: not told.
    """

    num_bytes: int | None
    checksum: str | None
    time: str | None


_KNOWN: dict[str, tuple[float, State]] = {}  # by address: when it was asked, and the answer


class RemotePath(PosixPath):
    """A path by name only: its suffixes say what is in the file, `url` says where it is.

    As text it is the address without what may be secret, a password or a query.
    """

    url: str = ""

    def __str__(self) -> str:
        return public(self.url)


def is_address(name: str) -> bool:
    """Whether a name is an address of fsspec."""
    return _ADDRESS.match(name) is not None


def find_remote(address: str) -> list[RemotePath]:
    """The files of an address or, where the file system lists its files, of a glob.

    Raises:
        ConfigurationError: the package for it is not installed, or there is no such file system.
        DataError: there is no such file.
        SourceUnavailable: it cannot be reached, or access is denied.
    """
    is_web = address.lower().startswith("http")  # where ? begins a query
    if not set(address) & set("*[" if is_web else "*?["):
        path = _path(address)
        look(path)
        return [path]
    system, pattern = _system(address)
    shown = public(address)
    found = retried(shown, lambda: system.glob(pattern, detail=True))
    files = sorted(name for name in found if found[name]["type"] != "directory")
    paths = {_path(system.unstrip_protocol(name)): found[name] for name in files}
    for path, info in paths.items():
        told = _as_state(info)
        if told.num_bytes is not None and told.checksum is not None:  # no need to ask for each
            _KNOWN[path.url] = (time.monotonic(), told)
    if not paths:
        raise DataError(
            f"no file matches {shown}; name the files (few web servers list what they have)"
        )
    return list(paths)


def look(path: RemotePath) -> State:
    """Ask for the state of a file.

    Raises:
        DataError: there is no such file, or it is a folder.
        SourceUnavailable: it cannot be reached, or access is denied.
    """
    system, name = _system(path.url)

    def ask() -> dict[str, Any]:
        system.invalidate_cache()
        return system.info(name)

    info = retried(path, ask)
    if info["type"] == "directory":
        raise DataError(f"{path} is a folder; name its files, for example {path}/*")
    _KNOWN[path.url] = (time.monotonic(), found := _as_state(info))
    return found


def _as_state(info: dict[str, Any]) -> State:
    info = {**info, **(info.get("lfs") or {})}
    told = ((key, info.get(key)) for key in _CHECKSUMS)
    sure = (f"{key}: {value}" for key, value in told if value and not str(value).startswith("W/"))
    checksum = next(sure, None)
    times = (str(info[key]) for key in _TIMES if checksum is None and info.get(key))
    return State(info.get("size"), checksum, next(times, None))


def known(path: RemotePath) -> State:
    """The state of a file when it was last looked at."""
    return _KNOWN[path.url][1] if path.url in _KNOWN else look(path)


def state(path: RemotePath) -> State:
    """As `look`, but not for every block that is read."""
    asked, _ = _KNOWN.get(path.url, (-LOOK_SECONDS, None))
    return look(path) if time.monotonic() - asked >= LOOK_SECONDS else known(path)


def open_remote(path: RemotePath) -> io.BufferedReader:
    """A stream of a file, seekable.

    Raises:
        SourceUnavailable: it cannot be opened or, later, read.
    """
    return io.BufferedReader(_RemoteFile(path), _SKIP_BYTES)


class _RemoteFile(io.RawIOBase):
    """A file that is opened anew at its position after an error."""

    def __init__(self, path: RemotePath) -> None:
        self.name = str(path)
        self._path, self._position = path, 0
        self._num_bytes = known(path).num_bytes
        self._file: Any = None
        self._has_ranges = True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes or 0}
        position = starts[whence] + offset
        if position != self._position:
            self._close()
            self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        data = retried(self._path, lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def _read(self, num_bytes: int) -> bytes:
        """Some bytes from the position on; after an error the file is closed."""
        if self._num_bytes is not None and self._position >= self._num_bytes:
            return b""
        try:
            if self._file is None:
                self._file = self._open()
            data = self._file.read(num_bytes)
            if not data and self._num_bytes is not None:
                raise EOFError(f"the connection ended after {self._position:,} bytes")
        except Exception as error:
            self._close()
            if self._has_ranges and "range requests" in str(error):
                self._has_ranges = False  # the server gives whole files only
                return self._read(num_bytes)
            raise
        self._position += len(data)
        return data

    def _open(self) -> Any:
        system, name = _system(self._path.url)
        if self._has_ranges and self._num_bytes is not None:
            file = system.open(name, "rb", block_size=_BLOCK_BYTES, cache_type="readahead")
        else:
            file = system.open(name, "rb", block_size=0)
        if self._position:
            try:
                file.seek(self._position)
            except (OSError, ValueError, NotImplementedError):
                _skip(file, self._position)
        return file

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def close(self) -> None:
        if not self.closed:
            self._close()
        super().close()


def _skip(file: Any, num_bytes: int) -> None:
    while num_bytes > 0 and (data := file.read(min(num_bytes, _SKIP_BYTES))):
        num_bytes -= len(data)


def _path(address: str) -> RemotePath:
    path = RemotePath(address.partition("?")[0])
    path.url = address
    return path


@cache
def _system(address: str) -> tuple[Any, str]:
    """The file system of an address, and the file's name there."""
    import fsspec

    protocol = address.partition("://")[0].lower()
    options: dict[str, Any] = {"use_listings_cache": False}
    try:
        if protocol in ("http", "https"):
            import aiohttp

            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS
            )
            headers = {"Accept-Encoding": "identity"}  # sizes and places are those of the file
            options["client_kwargs"] = {"timeout": timeout, "headers": headers}
        return fsspec.url_to_fs(address, **options)
    except ImportError as error:
        package = _PACKAGES.get(protocol, getattr(error, "name", None) or protocol)
        raise ConfigurationError(
            f"{protocol}:// needs the package {package}; run `pip install {package}`"
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"{public(address)}: {error}; expected s3://, gs://, https://, hf:// or a file"
        ) from error
