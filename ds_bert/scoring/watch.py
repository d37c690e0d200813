"""Scores the checkpoints of a run as they appear, each once, while it trains or afterwards."""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from ds_bert import files
from ds_bert.checkpoint.folder import CHECKPOINTS, MODEL, Checkpoint, list_checkpoints, step_of
from ds_bert.errors import ConfigurationError, TrainingDiverged
from ds_bert.run_report.background import ReportWriter
from ds_bert.run_report.history import Row
from ds_bert.run_report.scores import SCORES, read_scores, task_of
from ds_bert.scoring.options import ScoreOptions, WatchOptions
from ds_bert.scoring.run_folder import Life, append_score, copy_model, fingerprint

LOOK = 2.0  # seconds between two looks at the folder
REPORT = 60.0  # seconds between two reports


class Scores(Protocol):
    """What scores models on one task (`job.Scorer`)."""

    @property
    def about(self) -> dict[str, Any]:
        """What was done, the same for all models."""

    def __call__(self, name: str, folder: Path, is_trained: bool = True) -> dict[str, Any]:
        """The record of one model."""


def watched_run(options: ScoreOptions) -> Path:
    """The folder of the run that the user named; it need not exist yet.

    Raises:
        ConfigurationError: it is no run, or another model was named as well.
    """
    path = Path(options.checkpoint)
    if options.compare is not None:
        raise ConfigurationError(
            f"compare: found {options.compare} with --watch, expected none; score it by itself"
        )
    if step_of(path) >= 0 or path.is_file():
        raise ConfigurationError(
            f"checkpoint: found {path} with --watch, expected the folder of a run; name that, or "
            "leave --watch out"
        )
    return path.parent if path.name == CHECKPOINTS else path


class Watcher:
    """Scores the checkpoints of a run until it has ended.

    Args:
        run: its folder; need not exist yet.
        how: which ones, and how long to wait.
        score: the task.
        untrained: also score random weights, once.
        tell: called with each new row.
    """

    def __init__(
        self,
        run: Path,
        how: WatchOptions,
        score: Scores,
        untrained: bool = False,
        tell: Callable[[Row], None] = lambda row: None,
    ):
        self._run, self._how, self._score, self._tell = run, how, score, tell
        self._untrained = untrained
        self._task = task_of(score.about)
        self._waiting: dict[int, str] = {}  # fingerprints of what has been seen, by step
        self._settled: set[str] = set()  # of those that were scored or left out
        self._num_scored = 0
        self._life = Life(run, how.patience)
        self._report = ReportWriter(run, REPORT)

    def watch(self) -> int:
        """Score until the run has ended and nothing is left; the number of checkpoints scored.

        Raises:
            ConfigurationError: there is no checkpoint of a run; others as the task has them.
        """
        _say(f"watching {self._run}{'' if self._run.is_dir() else ', which is not there yet'}")
        while True:
            has_ended = self._life.has_ended()  # before the look: nothing comes after it
            checkpoint = self._next(has_ended)
            if checkpoint is not None:
                self._do(checkpoint)
            elif has_ended:
                break
            else:
                time.sleep(LOOK)
        self._end()
        return self._num_scored

    def _next(self, has_ended: bool) -> Checkpoint | None:
        """The oldest checkpoint that is to be scored; it is the first to be deleted."""
        there = list_checkpoints(self._run / CHECKPOINTS)
        done = {row.get("fingerprint") for row in self._rows() if row.get("trained")}
        every = self._how.every_steps
        todo = [
            one
            for number, one in enumerate(there)
            if (one.step % every == 0 or (has_ended and number == 0))
            and fingerprint(one) not in done | self._settled
        ]
        self._tell_deleted({one.step for one in there}, done)
        self._waiting = {one.step: fingerprint(one) for one in todo}
        return todo[-1] if todo else None

    def _rows(self) -> list[Row]:
        return [row for row in read_scores(self._run) if task_of(row) == self._task]

    def _tell_deleted(self, steps: set[int], done: set[Any]) -> None:
        for step, its in sorted(self._waiting.items()):
            if step not in steps and its not in done | self._settled:
                self._leave_out(step, its, "its run has deleted it before its turn")

    def _leave_out(self, step: int, its: str, why: str) -> None:
        self._settled.add(its)
        _say(f"step {step:,} is left out: {why}")

    def _do(self, checkpoint: Checkpoint) -> None:
        with tempfile.TemporaryDirectory(prefix="ds_bert_score_") as folder:
            problem = copy_model(checkpoint, Path(folder))
            if problem is not None:
                self._leave_out(checkpoint.step, fingerprint(checkpoint), problem)
                return
            model, name = Path(folder, MODEL), str(checkpoint.folder)
            try:
                if self._untrained and all(row.get("trained") for row in self._rows()):
                    self._keep(self._score(name, model, is_trained=False), 0, "")
                record = self._score(name, model)
            except TrainingDiverged as error:  # others may not
                self._leave_out(checkpoint.step, fingerprint(checkpoint), str(error))
                return
        self._keep(record, checkpoint.step, fingerprint(checkpoint))
        self._num_scored += 1
        self._life.has_ended()  # looks again: a score takes minutes
        if not self._life.is_going_on:  # else the run writes its report itself
            self._report.update()

    def _keep(self, record: dict[str, Any], step: int, its: str) -> None:
        row = {"step": step, "time": time.time(), "fingerprint": its} | record
        append_score(self._run, row)
        self._settled.add(its)
        self._tell(row)

    def _end(self) -> None:
        if not read_scores(self._run):
            raise ConfigurationError(
                f"{self._run}: found no checkpoint that could be scored, expected the output_dir "
                "of a run; check the path, or wait longer for its start with --patience"
            )
        page = self._report.close(is_over=True)
        told = f"; report: {page}" if page is not None else ""
        _say(f"{self._num_scored} scored, rows are in {self._run / SCORES}{told}")


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def print_row(row: Row) -> None:
    """A row on standard output, as it is in the file."""
    print(files.as_json(row), flush=True)
