"""The disk as a crash would leave it, before every operation on the files of a folder.

As SQLite's crash tests do. `snapshots` runs a function and copies the folder whenever something is
about to change in it: each copy is what a `kill -9` at that moment leaves behind. A test then puts
a copy back, starts again and looks whether all is well:

    for snapshot in snapshots(folder, write, tmp_path / "copies"):
        snapshot.restore(folder)
        write()
        assert ...

Operations are seen by Python's audit events. What C++ or Rust code writes has none and shows in the
snapshot of the next operation. Threads may write at once: a snapshot makes the others wait.
"""

import builtins
import functools
import io
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events, and at which of their arguments paths and the folders they are relative to stand.
_EVENTS = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
    "os.rename": ((0, 2), (1, 3)),  # also os.replace
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "shutil.rmtree": ((0, 1),),
    "open": ((0, None),),
}
_tracer: "_Tracer | None" = None  # of the call of `snapshots` in progress
_taking, _this_thread = threading.Lock(), threading.local()


@dataclass(frozen=True)
class Snapshot:
    """A folder before an operation.

    Attributes:
        folder: the copy.
        operation: what was about to be done, such as "rename .train.partial/new to train"; "end"
            in the last one.
    """

    folder: Path
    operation: str

    def restore(self, folder: Path) -> None:
        """Make `folder` like the copy."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder, folder, symlinks=True)


def snapshots(
    folder: Path, action: Callable[[], Any], into: Path, kept: float | None = None
) -> list[Snapshot]:
    """Run `action` and copy `folder` before everything that it changes there, and at the end.

    Args:
        folder: what to watch; it exists.
        action: writes there; its exceptions come out.
        into: an absent folder for the copies, outside of `folder`.
        kept: None: as after a kill, nothing that was written is lost. A number: as after a power
            cut, of each file only this share of the bytes is as it was written last; behind it
            are those that were forced to disk, or none (names are taken to survive).

    Returns:
        the copies in order, without those that are like the one before.
    """
    global _tracer
    _install()
    assert _tracer is None, "snapshots inside of snapshots"
    tracer = _Tracer(folder.resolve(), into, kept)
    tracer.trust_all()
    with _watched_files(), _active(tracer):
        action()
        with _ours():
            tracer.take("end")
    return tracer.taken


def sample(items: list[Snapshot], most: int) -> list[Snapshot]:
    """At most so many of them, evenly, first and last included; all where ALL_CRASHES is set."""
    if len(items) <= most or os.environ.get("ALL_CRASHES"):
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


@dataclass
class _Tracer:
    folder: Path
    into: Path
    kept: float | None
    taken: list[Snapshot] = field(default_factory=list)
    forced: dict[int, bytes] = field(default_factory=dict)  # on disk for sure, by inode
    last: dict[str, bytes | str | None] | None = None

    def trust_all(self) -> None:
        """What is there before the action is on disk."""
        for path in self.folder.rglob("*"):
            if _is_file(path):
                self.forced[path.stat().st_ino] = path.read_bytes()

    def take(self, operation: str) -> None:
        """Copy the folder if it is not like the last copy."""
        found = self._read()
        if found == self.last:
            return
        self.last = found
        copy = self.into / f"{len(self.taken):04}"
        copy.mkdir(parents=True)
        for name, content in found.items():
            if content is None:
                (copy / name).mkdir()
            elif isinstance(content, str):
                (copy / name).symlink_to(content)
            else:
                (copy / name).write_bytes(content)
        self.taken.append(Snapshot(copy, operation))

    def _read(self) -> dict[str, bytes | str | None]:
        """All below the folder: content of a file, target of a link, None for a folder."""
        found: dict[str, bytes | str | None] = {}
        inodes = set()
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif path.is_dir():
                found[name] = None
            elif _is_file(path):
                inode, content = path.stat().st_ino, path.read_bytes()
                inodes.add(inode)
                found[name] = self._after_crash(inode, content)
        # The number of a removed file is given to a new one.
        self.forced = {inode: data for inode, data in self.forced.items() if inode in inodes}
        return found

    def _after_crash(self, inode: int, content: bytes) -> bytes:
        forced = self.forced.get(inode, b"")[: len(content)]  # it may have been cut meanwhile
        self.forced[inode] = forced
        if self.kept is None:
            return content
        size = int(len(content) * self.kept)
        return content[:size] + forced[size:]

    def force(self, descriptor: int) -> None:
        """Remember what is on disk for sure."""
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            self.forced[status.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def names(self, paths: list[Path]) -> str | None:
        """The paths for a text, or None if all are elsewhere."""
        if not any(path.is_relative_to(self.folder) for path in paths):
            return None
        return " to ".join(
            path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else "..."
            for path in paths
        )


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


@functools.cache
def _install() -> None:
    sys.addaudithook(_on_event)  # for ever: hooks cannot be removed


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if _tracer is None or event not in _EVENTS or _is_ours():
        return
    if event == "open" and not arguments[2] & _WRITING:
        return
    _before(event.rpartition(".")[2], [_path(arguments, *where) for where in _EVENTS[event]])


def _before(operation: str, paths: list[Path]) -> None:
    """Take a snapshot, if one is being taken and the paths are in its folder."""
    tracer = _tracer
    names = tracer and not _is_ours() and tracer.names(paths)
    if tracer is not None and names:
        with _ours():
            tracer.take(f"{operation} {names}")


@contextmanager
def _ours() -> Iterator[None]:
    """What this thread does inside is not watched, and no other thread changes a file meanwhile."""
    with _taking:
        _this_thread.is_ours = True
        try:
            yield
        finally:
            _this_thread.is_ours = False


def _is_ours() -> bool:
    return getattr(_this_thread, "is_ours", False)


@contextmanager
def _active(tracer: _Tracer | None) -> Iterator[None]:
    global _tracer
    before, _tracer = _tracer, tracer
    try:
        yield
    finally:
        _tracer = before


def _path(arguments: tuple[Any, ...], place: int, folder_place: int | None) -> Path:
    path = arguments[place]
    if isinstance(path, int):
        return _of_descriptor(path)
    path = Path(os.fsdecode(path))
    folder = -1 if folder_place is None else arguments[folder_place]
    if folder not in (-1, None) and not path.is_absolute():
        path = _of_descriptor(folder) / path
    return path.parent.resolve() / path.name


def _of_descriptor(descriptor: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


@contextmanager
def _watched_files() -> Iterator[None]:
    """See also what has no audit event: a file is open and empty, or is forced to disk."""

    def after_open(original: Callable[..., Any]) -> Callable[..., Any]:
        def opening(file: Any, *arguments: Any, **more: Any) -> Any:
            opened = original(file, *arguments, **more)
            if opened.writable():
                _before("write", [_of_descriptor(opened.fileno())])
            return opened

        return opening

    def forcing(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def force(file: Any) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            _before("fsync", [_of_descriptor(descriptor)])
            original(file)
            if (tracer := _tracer) is not None and not _is_ours():
                with _ours():
                    tracer.force(descriptor)

        return force

    with (
        mock.patch.object(builtins, "open", after_open(builtins.open)),
        mock.patch.object(io, "open", after_open(io.open)),
        mock.patch.object(os, "fsync", forcing(os.fsync)),
        mock.patch.object(os, "fdatasync", forcing(os.fdatasync)),
    ):
        yield
