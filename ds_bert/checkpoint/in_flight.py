"""A save beside training: its work in a thread, what ranks agree on in the main one."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from ds_bert.checkpoint.saving import Stages


class InFlight:
    """A save that is written by a thread of each rank, stage by stage.

    Args:
        step: optimizer steps done.
        stages: of `save_in_stages`.

    Attributes:
        step: see above.
        since: when it was begun (time.monotonic).
        folder: the checkpoint, once it is there.
    """

    def __init__(self, step: int, stages: Stages):
        self.step, self.since = step, time.monotonic()
        self._stages = stages
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._number = 0
        self.folder: Path | None = None

    @property
    def is_busy(self) -> bool:
        """Whether this rank's work is still being done."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_committing(self) -> bool:
        """Whether the work in progress is the last one, of which a checkpoint comes."""
        return self.is_busy and self._number > 1

    def go_on(self) -> bool:
        """Wait for this rank's work and, with all ranks, begin the next; whether there is none.

        Raises:
            Exception: what the work has raised, or the stages do between two of them.
        """
        self.join()
        if self._error is not None:
            raise self._error
        try:
            work = next(self._stages)
        except StopIteration as end:
            self.folder = end.value
            return True
        self._number += 1
        self._thread = threading.Thread(target=self._do, args=(work,), name="save")
        self._thread.start()
        return False

    def join(self) -> None:
        """Wait for the work in progress."""
        if self._thread is not None:
            self._thread.join()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # raised in the main thread, by `go_on`
            self._error = error
