"""A run in which a rank fails or hangs ends on all ranks, soon and with the first cause.

Two threads in each rank: one talks with the others over the board, which may block; one judges what
it has heard and ends the process, without any collective and without the main thread.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Self

from ds_bert import distributed
from ds_bert.errors import STOPPED_ON_REQUEST, RankFailed, exit_code, report
from ds_bert.guards import standing
from ds_bert.guards.board import Beat, Board, Note
from ds_bert.guards.sentry import Sentry
from ds_bert.guards.stop import UNTRAINED, StopRequest

# Phases of a run, and how many times `watchdog_seconds` each may take without progress.
LIMITS = {
    "start": 6,  # reads checkpoints, builds the model, measures micro-batches
    "first step": 6,  # compiles, and so does the first validation
    "data": 1,
    "step": 1,
    "validation": 6,
    "copy": 6,  # what is saved beside training
    "save": 6,
    "end": 6,
}
TICK = 0.5  # seconds between two looks
LATE = 5.0  # seconds without a sign of life after which a rank does not answer; a beat is a TICK
GONE = 2.0  # seconds that a note takes at most: then a lost connection has no other cause
GRACE = 3.0  # seconds that the others leave rank 0, which sees all, and the sentry them


class Watchdog:
    """Watches this rank and the others while it is entered.

    Leaving it with an error ends the process if there are other ranks: they may stand in a
    collective that this rank never joins.

    Args:
        seconds: that a rank may go without progress (`LIMITS`); 0: for ever.
        folder: of the run; stacks go into its `stacks`.
        stop: obeyed here, at once, while no step is done; ranks may be compiling or measuring.
    """

    def __init__(self, seconds: int, folder: Path, stop: StopRequest | None = None):
        self._seconds, self._folder = seconds, folder
        self._stop = stop or StopRequest()
        self._rank, self._world_size = distributed.rank(), distributed.world_size()
        store = distributed.store()
        self._board = Board(store, self._rank, self._world_size) if store is not None else None
        self._left, self._ending = threading.Event(), threading.Lock()
        self._clock = 0.0  # seconds that this process has run: a suspended one is not to blame
        self._moves, self._since = -1, 0.0
        self._note: Note | None = None
        self._lost_since: float | None = None
        watched = range(self._world_size) if self._rank == 0 else [0]
        self._heard = {rank: (Beat(f"rank {rank}"), 0.0) for rank in watched}

    def __enter__(self) -> Self:
        standing.at("start", 0)
        if not faulthandler.is_enabled():
            faulthandler.enable()
        self._sentry = Sentry() if self._seconds else None
        threads = [self._judge] + ([self._talk] if self._board is not None else [])
        for loop in threads:
            threading.Thread(target=loop, name=f"watchdog {loop.__name__}", daemon=True).start()
        return self

    def __exit__(self, _kind: Any, error: BaseException | None, _traceback: Any) -> None:
        if self._board is not None:
            if isinstance(error, Exception | KeyboardInterrupt):
                self._fail(error)
            self._wait_for_all(self._board)
        self._left.set()
        if self._sentry is not None:
            self._sentry.leave()

    def _wait_for_all(self, board: Board) -> None:
        """Rank 0 keeps the board until all have come to their end."""
        standing.at("end")
        with suppress(RuntimeError):
            board.done()
            while self._rank == 0 and not board.all_done():
                time.sleep(0.02)

    def _talk(self) -> None:
        board, count = self._board, 0
        assert board is not None
        board.attend()
        while not self._left.wait(TICK):
            try:
                board.beat(self._own_beat(count))
                self._note = self._note or board.note()
                for rank, beat in board.beats(list(self._heard)).items():
                    if beat != self._heard[rank][0]:
                        self._heard[rank] = beat, self._clock
                count += 1
            except RuntimeError:
                self._lost_since = self._clock
                return  # the process that kept the board has ended

    def _own_beat(self, count: int = 0) -> Beat:
        now, idle = standing.NOW, self._clock - self._since
        place, waits = standing.main_thread() if idle > LATE else ("", False)
        return Beat(
            distributed.name(), count, now.phase, now.step, now.moves, round(idle, 1), place, waits
        )

    def _judge(self) -> None:
        last = time.monotonic()
        while not self._left.wait(TICK):
            now = time.monotonic()
            self._clock += min(now - last, LATE)
            last = now
            if standing.NOW.moves != self._moves:
                self._moves, self._since = standing.NOW.moves, self._clock
            if self._sentry is not None:
                self._sentry.answer(self._limit(standing.NOW.phase) + 3 * GRACE)
            note = self._note or self._verdict()
            if note is not None and not self._left.is_set():
                self._end(note)

    def _limit(self, phase: str) -> float:
        return self._seconds * LIMITS[phase]

    def _verdict(self) -> Note | None:
        """Why the run has to end, as far as this rank knows."""
        if self._lost_since is not None and self._clock - self._lost_since > GONE:
            return self._gone(0)
        for rank in self._board.ended() if self._board is not None else ():
            if self._clock - self._heard[rank][1] > GONE:  # a connection alone may be cut off
                return self._gone(rank)
        if self._stop.reason and standing.NOW.phase in UNTRAINED:
            return self._stopped()
        if not self._seconds:
            return None
        if self._board is None or self._rank == 0:
            self._heard[self._rank] = self._own_beat(), self._clock
        grace = 0.0 if self._rank == 0 else GRACE
        late = [
            rank
            for rank, (beat, heard) in self._heard.items()
            if beat.idle + self._clock - heard > self._limit(beat.phase) + grace
        ]
        return self._blame() if late else None

    def _blame(self) -> Note:
        """Of ranks that stand still together: who does not answer, or else who is behind."""
        silent = [r for r, (_, heard) in self._heard.items() if self._clock - heard > LATE]
        if silent:
            return self._hang(silent[0], "has not answered")
        fewest = min(beat.moves for beat, _ in self._heard.values())
        behind = [r for r, (beat, _) in self._heard.items() if beat.moves == fewest]
        behind = [r for r in behind if not self._heard[r][0].waits] or behind
        return self._hang(behind[0], "has made no progress")

    def _hang(self, rank: int, what: str) -> Note:
        beat, heard = self._heard[rank]
        seconds = beat.idle + self._clock - heard
        place = f" at {beat.place}" if beat.place else ""
        return Note(
            rank,
            f"{beat.name} {what} for {seconds:.0f} s, last in step {beat.step} ({beat.phase}"
            f"{place}); stacks are in {self._folder / 'stacks'}. Start again to go on from the "
            "last checkpoint, with a larger watchdog_seconds if it was only slow",
            RankFailed.exit_code,
            is_hang=True,
        )

    def _stopped(self) -> Note:
        return Note(
            self._rank,
            f"stopped on request before a step was done ({self._stop.reason}), nothing to save; "
            "start again to go on",
            STOPPED_ON_REQUEST,
        )

    def _gone(self, rank: int) -> Note:
        beat, _ = self._heard[rank]
        return Note(
            rank,
            f"{beat.name} ended without a message, last in step {beat.step} ({beat.phase}); was it "
            "killed, for want of memory perhaps? Start again to go on from the last checkpoint",
            RankFailed.exit_code,
        )

    def _end(self, note: Note) -> NoReturn:
        """End this process for a note of some rank; called by the judge."""
        self._ending.acquire()  # for ever: one thread ends the process
        first = self._pin(note)
        if (first or note).is_hang:
            self._show_stacks()
        if self._rank == 0 or first is None:
            _tell(first or note)
        self._leave(first, note.exit_code)

    def _pin(self, note: Note) -> Note | None:
        """The first note of all; None if the board does not answer."""
        board = self._board
        if board is None or self._lost_since is not None:
            return None
        return _within(GONE, lambda: board.pin(note))

    def _fail(self, error: BaseException) -> NoReturn:
        """End this process for its own error; called by the main thread."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # launchers send it when they see an end
        if _is_lost_connection(error):
            self._wait_for_cause()
        self._ending.acquire()
        code = exit_code(error)
        text = str(error) or type(error).__name__
        first = self._pin(Note(self._rank, f"{distributed.name()}: {text}", code))
        # Of an error that all ranks come to, the first one and rank 0 tell.
        tells = first is None or first.rank == self._rank or text not in first.message
        if tells or self._rank == 0:
            report(error)
        self._leave(first, code)

    def _wait_for_cause(self) -> None:
        """A lost connection follows from another rank's end, which is told instead if known."""
        standing.at("end")
        begin = self._clock  # the judge ends this process when it sees a note
        while self._clock - begin < (2 if self._rank == 0 else 3) * GONE:
            silent = [r for r, (_, heard) in self._heard.items() if self._clock - heard > GONE]
            if silent:
                self._end(self._gone(silent[0]))
            time.sleep(TICK / 5)

    def _leave(self, first: Note | None, code: int) -> NoReturn:
        board = self._board
        if board is not None and first is not None:
            code = first.exit_code
            _within(GONE, board.saw if self._rank else lambda: _wait_until(board.all_others_saw))
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)  # no collective, no clean-up that may wait for others

    def _show_stacks(self) -> None:
        with suppress(OSError, ValueError):
            faulthandler.dump_traceback()
        _within(GONE, self._write_stacks)  # the disk may be what hangs

    def _write_stacks(self) -> None:
        folder = self._folder / "stacks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"rank_{self._rank}.txt").open("w") as file:
            faulthandler.dump_traceback(file)


def _tell(note: Note) -> None:
    if note.exit_code == STOPPED_ON_REQUEST:
        print(note.message, flush=True)
    else:
        print(f"error: {note.message}", file=sys.stderr, flush=True)


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """A call's result; None if it fails, or takes longer than that."""
    results = []

    def work() -> None:
        with suppress(RuntimeError, OSError):
            results.append(call())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None


def _wait_until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.05)


def _is_lost_connection(error: BaseException) -> bool:
    """Whether an error of torch says that another rank has gone."""
    from torch.distributed import DistError

    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    found = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return isinstance(error, DistError) or found
