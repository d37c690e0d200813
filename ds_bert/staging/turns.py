"""Work that one of many processes does for all, on one host or on several.

The one that gets the lock works, the others wait for the result and take over where it died.
"""

import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ds_bert.errors import ConfigurationError
from ds_bert.files import boot_id, is_open_at, parse_json, take_lock

POLL_SECONDS = 1.0
BEAT_SECONDS = 5.0  # between two signs of life
SILENT_SECONDS = 60.0  # without one after which a process out of the kernel's reach is dead


def do_once(
    lock: Path,
    is_done: Callable[[], bool],
    work: Callable[[], object],
    wait: Callable[[str], object],
    moved: Callable[[], object] = lambda: None,
) -> None:
    """Do some work, or wait until another process has done it.

    Args:
        lock: a file that all of these processes see; it goes when nobody works.
        is_done: whether the result is there; after `work` it is.
        work: makes it, or raises.
        wait: gets, once, who works, in words.
        moved: called as long as somebody works.

    Raises:
        ConfigurationError: the lock's folder cannot be written.
    """
    turn, is_told = Turn(lock), False
    while not is_done():
        with turn:
            if turn.is_mine and not is_done():
                work()
        if not turn.is_mine:
            if not is_told:
                wait(turn.owner)
            is_told = True
            moved()
            time.sleep(POLL_SECONDS)


class Turn:
    """A lock that is taken, or not, when its context is entered.

    The kernel's lock (flock) says who has it. Where that does not reach (another host, a file
    system without locks), its owner is alive as long as the time of the file moves.

    Attributes:
        is_mine: whether this process has it; stays after the context is left.
        owner: who has it otherwise, in words.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is created before the context is entered."""
        self.path = path
        self.is_mine, self.owner = False, "another process"
        self._seen: tuple[int, float] | None = None  # time of the file, and when it was new

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            self.is_mine = self._take()
        except OSError as error:
            raise ConfigurationError(
                f"{self.path.parent} cannot be written ({error.strerror}), expected a folder for "
                "what is made once for all; name another one"
            ) from error
        if self.is_mine:
            self._left = threading.Event()
            threading.Thread(target=self._beat, args=(self._left,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.is_mine:
            self._left.set()
            with suppress(OSError):
                self.path.unlink()
        os.close(self._file)

    def _take(self) -> bool:
        try:
            is_locked = take_lock(self._file)
        except BlockingIOError:
            self._note()
            return False
        # Who has left between our two calls has unlinked the file that we hold.
        is_there = is_open_at(self._file, self.path)
        owner = self._note()
        is_reachable = is_locked and owner.get("boot") == boot_id()
        if not is_there or (owner and not is_reachable and self._is_alive()):
            return False
        return self._sign()

    def _note(self) -> dict[str, Any]:
        """Read who has the lock."""
        try:
            owner = parse_json(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        self.owner = f"process {owner.get('process')} on {owner.get('host')}"
        return owner

    def _is_alive(self) -> bool:
        """Whether the time of the file has moved since it was first looked at, or not for long."""
        now, moved = time.monotonic(), os.fstat(self._file).st_mtime_ns
        if self._seen is None or self._seen[0] != moved:
            self._seen = (moved, now)
        return now - self._seen[1] < SILENT_SECONDS

    def _sign(self) -> bool:
        """Write our name and see, a moment later, whether another host has done so too."""
        me = {
            "host": os.uname().nodename,
            "process": os.getpid(),
            "boot": boot_id(),
            "nonce": secrets.token_hex(8),
        }
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(me).encode(), 0)
        os.fsync(self._file)
        time.sleep(POLL_SECONDS)
        return self._note() == me

    def _beat(self, left: threading.Event) -> None:
        while not left.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self.path)
