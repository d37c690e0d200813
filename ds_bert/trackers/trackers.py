"""All trackers of a run, each in a thread of its own: none can stop training, or hold it up."""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from ds_bert import distributed
from ds_bert.strict_json import load_json
from ds_bert.trackers import rows
from ds_bert.trackers.mlflow import Mlflow
from ds_bert.trackers.names import resolve
from ds_bert.trackers.tensorboard import TensorBoard
from ds_bert.trackers.tracker import Bookmark, Start, Tracker
from ds_bert.trackers.wandb import Trackio, Wandb

TRACKERS: dict[str, Callable[[Start], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
    "mlflow": Mlflow,
}
_FORGETS = {"tensorboard"}  # trackers that take back what lies behind the step of the start
# Seconds after which rows are on disk, and not lost if the process is killed, from the next step
# on: until that the last one waits for more values. Flushed every 15 s.
_LAGS = {"wandb": 30.0}
_PATIENCE = 30.0  # seconds that they have at the end, all together
_MOST = 10_000  # rows that wait for a tracker


class Trackers:
    """What draws the run's curves, on rank 0; a context that ends with all of it written.

    Args:
        report_to: as in the recipe.
        folder: the run's, with its config.json and metrics.jsonl.
        step: optimizer steps done.
        is_branch: whether what comes differs from what an earlier process has drawn behind `step`.
    """

    def __init__(self, report_to: str, folder: Path, step: int, is_branch: bool = False):
        names = resolve(report_to) if distributed.rank() == 0 else []
        self._feeds = [_Feed(name, folder, step, is_branch) for name in names]

    def log(self, kind: str, step: int, row: dict[str, Any]) -> None:
        """Hand on a row of metrics.jsonl."""
        values = rows.values_of(kind, row)
        for feed in self._feeds if values else ():
            feed.put(step, values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for feed in self._feeds:
            feed.put_end()
        end = time.monotonic() + _PATIENCE
        for feed in self._feeds:
            feed.wait(max(0.0, end - time.monotonic()))


class _Feed:
    """Keeps one tracker level with metrics.jsonl.

    It first draws what the tracker lacks of the time before: all, where it is new to a run. What
    an earlier process has drawn behind the step of the start is not drawn twice.
    """

    def __init__(self, name: str, folder: Path, step: int, is_branch: bool):
        self._name, self._folder, self._step, self._is_branch = name, folder, step, is_branch
        self._rows: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(_MOST)
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, step: int, values: dict[str, float]) -> None:
        """Let it draw; nothing, where it has failed."""
        if self._is_over:
            return
        try:
            self._rows.put_nowait((step, values))
        except queue.Full:
            self._fail("it has not answered for long")

    def put_end(self) -> None:
        """Let it end when all is drawn."""
        if not self._is_over and not self._rows.full():
            self._rows.put_nowait(None)

    def wait(self, seconds: float) -> None:
        """Wait for that, at most so long."""
        if self._is_over:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._fail(f"it has not answered for {_PATIENCE:.0f} s")

    def _fail(self, why: str) -> None:
        if not self._is_over:
            distributed.log(
                f"warning: {self._name}: {why}; the run goes on without it, what it lacks follows "
                "at the next start"
            )
        self._is_over = True

    def _run(self) -> None:
        try:
            self._feed()
        except (Exception, SystemExit) as error:  # whatever a package or a network does
            text = str(error).strip() or type(error).__name__
            self._fail(text.splitlines()[0])

    def _feed(self) -> None:
        kept = Bookmark(self._folder, self._name, _LAGS.get(self._name, 0.0))
        if self._name in _FORGETS:
            kept.step = min(kept.step, self._step)
        elif self._step == 0 or (self._is_branch and kept.step > self._step):
            kept.id, kept.step = "", -1  # a run of its own
        record = load_json(self._folder / "config.json")
        tracker = TRACKERS[self._name](Start(self._folder, self._step, kept.id, record))
        drawn = kept.step
        kept.begin(tracker.id)
        for step, values in rows.written(self._folder / "metrics.jsonl", drawn, self._step):
            tracker.log(step, values)
        kept.move(max(drawn, self._step))
        while (row := self._rows.get()) is not None and not self._is_over:
            step, values = row
            if step > drawn:
                tracker.log(step, values)
                kept.move(step)
        tracker.close()
        kept.keep_last()
