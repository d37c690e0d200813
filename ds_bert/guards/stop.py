"""Who asks a run to stop: a signal to any rank, a file in its folder, its time, its launcher's end.

Each rank knows what it was asked itself. In training the ranks agree once a step (the trainer);
elsewhere by `Poll`; before the first step is done, where nothing is lost, over the watchdog's
board.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ds_bert import distributed, launcher
from ds_bert.errors import STOPPED_ON_REQUEST, STOPPED_TO_GROW
from ds_bert.guards import standing
from ds_bert.guards.flags import Flags

LOOK = 0.5  # seconds between two looks at file, clock and launcher
GROWTH = "hosts are back"  # the one reason that gives way to others
UNTRAINED = ("start", "first step")  # phases in which there is nothing to save
FIRST_SAVE = 300.0, 0.05  # until one was seen: seconds, and share of max_time; the less counts


class StopAgreed(Exception):
    """All ranks stop here; raised by all of them at the same point."""


class StopRequest:
    """Whether, and why, this rank was asked to stop.

    Args:
        max_seconds: of this process, from its start; None: no limit.
        launcher_process: of the launcher of `ds-bert launch`; None: as the environment says.

    Attributes:
        reason: in words; empty: nobody has asked.
    """

    def __init__(self, max_seconds: float | None = None, launcher_process: int | None = None):
        self.reason = ""
        self._max_seconds = max_seconds
        self._end = None if max_seconds is None else time.monotonic() + max_seconds - _age()
        self._launcher = _process(launcher_process or launcher.door())
        self._folder: Path | None = None

    def ask(self, reason: str) -> None:
        """Ask for a save and an orderly end; the first reason counts."""
        if self.reason in ("", GROWTH):
            self.reason = reason

    def by_signal(self, number: int, _frame: Any = None) -> None:
        """A signal handler."""
        self.ask(f"{signal.Signals(number).name} to {distributed.name()}")

    def look_into(self, folder: Path) -> None:
        """From now on obey the file in this folder, which the run has to itself."""
        if distributed.rank() == 0:
            if _take(path := folder / launcher.STOP_FILE):
                distributed.log(
                    f"{path} was there before this run and is removed; to stop this one, make it "
                    "again"
                )
            _take(folder / launcher.GROW_FILE)
            self._folder = folder

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look at file, clock and launcher while entered."""
        left = threading.Event()

        def look() -> None:
            while not left.wait(LOOK):
                self._look()

        thread = threading.Thread(target=look, name="stop", daemon=True)
        thread.start()
        try:
            yield
        finally:
            left.set()
            thread.join()

    def _look(self) -> None:
        if self._launcher is not None and not self._launcher.is_running():
            self.ask("its launcher has ended")
        if distributed.rank() == 0:
            if self._folder is not None:
                self._look_for_files(self._folder)
            if self._end is not None and time.monotonic() + self._reserve() > self._end:
                self.ask("max_time")

    def _look_for_files(self, folder: Path) -> None:
        if _take(folder / launcher.STOP_FILE):
            self.ask(f"the file {folder / launcher.STOP_FILE}")
        # Growth waits for the first step: a start that is cut short would only begin again.
        if standing.NOW.phase not in UNTRAINED and _take(folder / launcher.GROW_FILE):
            self.reason = self.reason or GROWTH

    def _reserve(self) -> float:
        """Seconds that the step in progress and the save may take, after one in flight."""
        took, beside = standing.NOW.took, standing.NOW.saves_beside
        seconds, share = FIRST_SAVE
        save = took.get("save", min(seconds, share * (self._max_seconds or 0.0)))
        return (1.5 + beside) * save + 2 * took.get("step", 0.0) + LOOK


class Poll:
    """Raises `StopAgreed` on all ranks where one was asked to stop; each call is a collective.

    A call starts a question and reads the answer to that of the call before, which has arrived
    meanwhile: on a GPU the host does not wait for what it has just launched.
    """

    def __init__(self, request: StopRequest, device: torch.device):
        self._request, self._device = request, device
        self._asked: Flags | None = None

    def __call__(self) -> None:
        """Ask again, and raise by the answer before."""
        before, self._asked = self._asked, _ask(self._request, self._device)
        if before is not None and before.read()[0]:
            raise StopAgreed


def is_agreed(request: StopRequest, device: torch.device) -> bool:
    """Whether any rank was asked to stop (a collective, and a wait)."""
    return _ask(request, device).read()[0]


def reasons(request: StopRequest) -> str:
    """Why the first rank was asked that was, and how many others (a collective)."""
    first, *others = filter(None, distributed.gather(request.reason))
    return first + f" and {len(others):,} more" * bool(others)


def exit_code(request: StopRequest) -> int:
    """That of a run that stops: whether all that was asked for is growth (a collective)."""
    told = set(filter(None, distributed.gather(request.reason)))
    return STOPPED_TO_GROW if told == {GROWTH} else STOPPED_ON_REQUEST


def _ask(request: StopRequest, device: torch.device) -> Flags:
    return Flags((bool(request.reason),), device)


def _take(path: Path) -> bool:
    """Remove the file; whether it was there."""
    with suppress(OSError):
        path.unlink()
        return True
    return False


def _process(number: int | None) -> Any:
    import psutil

    if number is None:
        return None
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(number)  # knows its start, so another one of that number is another
    return _Ended()


class _Ended:
    def is_running(self) -> bool:
        return False


def _age() -> float:
    """Seconds since this process was started."""
    import psutil

    return time.time() - psutil.Process(os.getpid()).create_time()
