"""One run writes into a folder at a time, and all of its ranks see that one folder.

`run.lock` is held by the kernel's lock (flock) and names its owner. Where that lock does not reach
(another host, a file system without locks), its owner is alive as long as the file's time moves.
A number in it, fresh in every run, proves to each rank that it looks at the folder of rank 0.
"""

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ds_bert import distributed, files
from ds_bert.errors import CheckpointError, ConfigurationError

LOCK = "run.lock"
BEAT = 15.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one after which an owner out of reach counts as gone
SECONDS_TO_SEE = 30.0  # within which every rank sees the lock (caches of NFS)


class RunLock:
    """Holds a run's folder while it is entered; entered and left by all ranks.

    Raises:
        ConfigurationError: another run holds it, some rank sees another folder, or nothing can be
            written there.
    """

    def __init__(self, folder: Path):
        self.folder, self._path = folder, folder / LOCK
        self._nonce = distributed.from_rank_0(secrets.token_hex(8))
        self._file: int | None = None
        self._left = threading.Event()

    def __enter__(self) -> Self:
        absent = [p for p in (self.folder, *self.folder.absolute().parents) if not p.exists()]
        self._new_folders = absent
        try:
            distributed.on_rank_0(self._take)
            self._require_one_folder()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._release()

    def check(self) -> None:
        """Refuse to go on where another run has taken over meanwhile; rank 0.

        It may do so after this process slept for more than a minute, out of its reach.

        Raises:
            CheckpointError: the lock names another run.
        """
        owner = _read(self._path)
        if owner.get("nonce") != self._nonce:
            raise CheckpointError(
                f"{self._path} is not of this run any more (now: {_describe(owner)}); another run "
                "has taken over, this one saves nothing more"
            )

    def _take(self) -> None:
        files.require_folder(self.folder, "output_dir")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file, is_locked = _open(self._path)
        except BlockingIOError:
            raise _busy(self.folder, _read(self._path)) from None
        except OSError as error:
            raise _not_writable(self.folder, error) from None
        owner = _read(self._path)
        within_reach = is_locked and owner.get("boot") == files.boot_id()
        if owner and not within_reach and _is_alive(self._path, owner):
            raise _busy(self.folder, owner)
        try:
            self._write()
        except OSError as error:
            with suppress(OSError):
                self._path.unlink()
            raise _not_writable(self.folder, error) from None
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def _write(self) -> None:
        owner = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "boot": files.boot_id(),
            "nonce": self._nonce,
        }
        assert self._file is not None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, (json.dumps(owner) + "\n").encode(), 0)
        os.fsync(self._file)

    def _beat(self) -> None:
        while not self._left.wait(BEAT):
            with suppress(OSError):
                if _read(self._path).get("nonce") == self._nonce:
                    os.utime(self._path)

    def _require_one_folder(self) -> None:
        """Every rank looks for the number that rank 0 has written."""
        seen = self._sees_nonce()
        everyone = distributed.gather((distributed.name(), seen))
        blind = [name for name, sees in everyone if not sees]
        if blind:
            raise ConfigurationError(
                f"output_dir {self.folder}: {', '.join(blind)} does not see the {LOCK} that "
                f"{everyone[0][0]} has written, expected one folder for all ranks; put it on a "
                "disk that all hosts share"
            )

    def _sees_nonce(self) -> bool:
        deadline = time.monotonic() + SECONDS_TO_SEE
        while _read(self._path).get("nonce") != self._nonce:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def _release(self) -> None:
        self._left.set()
        if self._file is None:
            return
        with suppress(OSError):
            if _read(self._path).get("nonce") == self._nonce:
                self._path.unlink()
        os.close(self._file)
        self._file = None
        for folder in self._new_folders:  # empty ones that were made for the lock alone
            with suppress(OSError):
                folder.rmdir()


def _open(path: Path) -> tuple[int, bool]:
    """Open and lock a file; whether the file system knows locks.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            is_locked = files.take_lock(file)
        except BlockingIOError:
            os.close(file)
            raise
        # Who left between our two calls has unlinked the file that we hold.
        if not is_locked or files.is_open_at(file, path):
            return file, is_locked
        os.close(file)


def _read(path: Path) -> dict[str, Any]:
    """The owner in a lock; nothing where there is none."""
    try:
        owner = files.parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_alive(path: Path, owner: dict[str, Any]) -> bool:
    """Whether an owner out of the kernel's reach still gives signs of life; takes up to SILENCE."""
    first = path.stat().st_mtime_ns
    # Of a time to come, when a clock was set back, nothing follows.
    silent = max(0.0, _now_on_disk_of(path) - first / 1e9)
    if silent < SILENCE:
        distributed.log(f"waiting up to {SILENCE - silent:.0f} s: is {_describe(owner)} alive?")
    deadline = time.monotonic() + SILENCE - silent
    while time.monotonic() < deadline:
        time.sleep(min(1.0, SILENCE / 10))
        with suppress(FileNotFoundError):
            if path.stat().st_mtime_ns != first:
                return True
    return False


def _now_on_disk_of(path: Path) -> float:
    """Seconds by the clock that stamps files there; those of hosts may differ from it."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _busy(folder: Path, owner: dict[str, Any]) -> ConfigurationError:
    return ConfigurationError(
        f"output_dir {folder}: another run writes there ({_describe(owner)}); wait for its end, or "
        "choose another output_dir"
    )


def _not_writable(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"output_dir {folder}: cannot be written ({error.strerror}); make room, or choose another"
    )


def _describe(owner: dict[str, Any]) -> str:
    if not owner:
        return "unknown"
    return f"process {owner.get('process')} on {owner.get('host')}, since {owner.get('since')}"
