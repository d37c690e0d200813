"""Files and folders that appear whole or not at all: written beside, forced to disk, renamed.

A folder with its last file is complete; whatever a crash leaves behind has none.
"""

import fcntl
import json
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import xxhash
from tqdm import tqdm

from ds_bert.errors import ConfigurationError

DATA_SET = "meta.json"  # written last into a data set
_LOCK_TRIALS = 10


def parse_json(text: str, **how: Any) -> Any:
    """`json.loads`, where brackets inside of a thousand others are a ValueError as well."""
    try:
        return json.loads(text, **how)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


def cache_folder() -> Path:
    """Where things are kept that can be made again; it need not exist, or be writable."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return base.expanduser() / "ds_bert"
    except RuntimeError:  # a user without a home: a place where nothing can be
        return Path(os.devnull) / "ds_bert"


def seal_file(path: Path) -> dict[str, Any]:
    """Force a file to disk and return its manifest entry: size in bytes and xxh3 hash."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "xxh3_128": hash_file(path)}


def write_text(path: Path, text: str) -> None:
    """Replace a small file atomically and force it to disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def as_json(value: Any, indent: int | None = None) -> str:
    """Valid JSON of plain values: numbers that are not finite, which JSON lacks, become null."""
    return json.dumps(_finite(value), indent=indent, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def require_folder(folder: Path, name: str) -> None:
    """Refuse to start where nothing can be written.

    Args:
        folder: where to write; need not exist.
        name: of the setting, for the message.

    Raises:
        ConfigurationError: it, or what is there of the way to it, is no folder or not writable.
    """
    absolute = folder.absolute()
    existing = next(p for p in (absolute, *absolute.parents) if p.exists() or p.is_symlink())
    is_folder = existing.is_dir()
    if not is_folder or not os.access(existing, os.W_OK):
        raise ConfigurationError(
            f"{name} {folder}: {existing} is {'not writable' if is_folder else 'no folder'}, "
            "expected a folder that can be written; choose another"
        )


def require_space(folder: Path, num_bytes: float, what: str) -> None:
    """Refuse to start what will surely not fit.

    Args:
        folder: where it will be; need not exist.
        num_bytes: size on disk.
        what: what needs it, for the message.

    Raises:
        ConfigurationError: less is free on the disk of the folder.
    """
    absolute = folder.absolute()
    existing = next(path for path in (absolute, *absolute.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if num_bytes > free:
        raise ConfigurationError(
            f"{what}: about {tqdm.format_sizeof(num_bytes)}B are needed and "
            f"{tqdm.format_sizeof(free)}B are free on the disk of {folder}; make room, or choose "
            "another folder"
        )


def sync_folder(folder: Path) -> None:
    """Force a folder's entries (names, renames) to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place(final: Path) -> Path:
    """Where a folder really is: a link stays, and what it points to is made or replaced."""
    if final.is_symlink():
        if not final.exists():
            raise ConfigurationError(
                f"{final} is a link to {os.readlink(final)}, which does not exist; create that "
                "folder or choose another output folder"
            )
        final = final.resolve()
    if os.path.ismount(final):
        raise ConfigurationError(
            f"{final} is a mount point, expected a folder that can be replaced as a whole; choose "
            "a folder inside of it"
        )
    return final


def take_lock(file: int) -> bool:
    """Take the kernel's lock of an open file or folder; it goes with the process.

    Returns:
        whether its file system knows locks; without them nothing is held.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def is_open_at(file: int, path: Path) -> bool:
    """Whether an open file is the one at `path`: who held its lock may have removed it."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def boot_id() -> str:
    """The same for all processes that one kernel's locks reach, another one after a reboot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.uname().nodename


def hash_file(path: Path) -> str:
    """xxh3 hash (128 bits) of a file's bytes, as hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


class OutputFolder:
    """A hidden folder beside the final one, to write in; `publish` renames it into place.

    Used as a context manager, which removes all that is not published, and whatever a killed run
    left behind. With `keep`, unfinished work stays, for the next run to go on with.

    Attributes:
        final: the folder to make or to replace.
        folder: where to write.
        hidden: holds `folder` and more that is needed on the way.
    """

    def __init__(self, final: Path, keep: bool = False) -> None:
        """Nothing is created before the context is entered.

        Raises:
            ConfigurationError: `final` cannot be replaced: a link to nothing, or a mount point.
        """
        self.final = final = _place(final)
        self.hidden = final.with_name(f".{final.name}.partial")
        self.folder = self.hidden / "new"
        self._old = self.hidden / "old"
        self._keep = keep

    def __enter__(self) -> Self:
        self._new_parents = [folder for folder in self.hidden.parents if not folder.exists()]
        if not any(self._lock_hidden() for _ in range(_LOCK_TRIALS)):
            raise ConfigurationError(
                f"cannot create a folder in {self.final.parent}: it is gone at once; choose "
                "another output folder"
            )
        self._put_back()
        shutil.rmtree(self._old, ignore_errors=True)
        if not self._keep:
            self.clear()
        self.folder.mkdir(exist_ok=True)
        return self

    def _lock_hidden(self) -> bool:
        """Create and lock the hidden folder; whether it is there still when it is locked."""
        try:
            self.hidden.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.hidden, os.O_RDONLY)
        except FileNotFoundError:  # the run that held it has just removed it
            return False
        except OSError as error:
            raise ConfigurationError(
                f"cannot create a folder in {self.final.parent}: {error.strerror}; "
                "choose another output folder"
            ) from error
        try:
            take_lock(self._lock)
        except BlockingIOError as error:
            os.close(self._lock)
            raise ConfigurationError(
                f"another run is writing {self.final}; wait for it or choose another output folder"
            ) from error
        is_there = is_open_at(self._lock, self.hidden)
        if not is_there:
            os.close(self._lock)
        return is_there

    def clear(self) -> None:
        """Remove all that was written; begin anew."""
        for path in self.hidden.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.folder.mkdir()

    def publish(self) -> None:
        """Put the folder into place, each step forced to disk; an old one gives way."""
        for path in [self.folder, *self.folder.rglob("*")]:
            sync_folder(path)  # also of a file
        if self.final.exists():
            os.rename(self.final, self._old)
        os.rename(self.folder, self.final)
        self._keep = False
        sync_folder(self.final.parent)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._keep = False

    def _put_back(self) -> None:
        """Undo half a `publish`."""
        if self._old.exists() and not self.final.exists():
            os.rename(self._old, self.final)

    def __exit__(self, *exception: object) -> None:
        self._put_back()
        if not self._keep:
            shutil.rmtree(self.hidden, ignore_errors=True)
        os.close(self._lock)
        with suppress(OSError):  # not empty: something was published or kept
            for folder in (self.folder, self.hidden, *self._new_parents):
                if folder.exists():
                    folder.rmdir()
