"""A run as its folder tells it: rows of the log, settings, and the run that it began from."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ds_bert import files
from ds_bert.errors import DataError

LOG, RECORD, PAGE = "metrics.jsonl", "config.json", "report.html"
_DIAGNOSES = "diverged/step_*/diagnosis.json"
_MAX_PHASES = 8
_LEVELS = 4  # from a checkpoint's model folder up to its run
PAUSES = ("validation_seconds", "save_seconds")
PAIRS = ("nsp", "sop")  # losses of pairs of segments

Row = dict[str, Any]


@dataclass(frozen=True)
class Phase:
    """One run; a run that began from another one is the phase after that.

    Attributes:
        folder: of the run.
        rows: of its log, of all kinds.
        record: its config.json.
        first: optimizer steps of the phases before.
        diverged: what a diverged run has left; None where it went on, or has not diverged.
    """

    folder: Path
    rows: list[Row]
    record: dict[str, Any] = field(default_factory=dict)
    first: int = 0
    diverged: dict[str, Any] | None = None

    def setting(self, name: str, default: Any = None) -> Any:
        """A field of the recipe's section; the default also where it is null."""
        value = self.record.get("ds_bert", {}).get(name)
        return default if value is None else value

    @cached_property
    def train(self) -> list[Row]:
        """Rows of training; pauses since the one before are with each."""
        found, pauses = [], dict.fromkeys(PAUSES, 0.0)
        for row in self.rows:
            pauses = {name: seconds + (row.get(name) or 0.0) for name, seconds in pauses.items()}
            if row.get("kind") == "train":
                found.append({**row, **pauses})
                pauses = dict.fromkeys(PAUSES, 0.0)
        return found

    @property
    def restarts(self) -> list[int]:
        """Steps at which the run went on after a stop, or a crash."""
        pairs = zip(self.rows, self.rows[1:], strict=False)
        return [a["step"] for a, b in pairs if a.get("started") != b.get("started")]

    @property
    def seconds(self) -> float:
        """Time in which the run's processes lived, as far as the log tells."""
        timed = (row for row in self.rows if row.get("started") and row.get("time"))
        last = {row["started"]: row["time"] for row in timed}
        return sum(end - start for start, end in last.items())

    @cached_property
    def validation(self) -> list[Row]:
        """Rows of validations."""
        return [row for row in self.rows if row.get("kind") == "validation"]

    @property
    def samples(self) -> int:
        """Sequences seen, as far as the log tells."""
        row = self.train[-1] if self.train else {}
        return row.get("samples", self.step * self.batch_size)

    @property
    def step(self) -> int:
        """Optimizer steps done, as far as the log tells."""
        return max((row["step"] for row in self.rows), default=0)

    @property
    def max_steps(self) -> int:
        """Optimizer steps in all; those done where it is not known."""
        return self.setting("max_steps", self.step)

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of warm-up."""
        share = self.setting("warmup_proportion", 0.0)
        return self.setting("warmup_steps", round(share * self.max_steps))

    @cached_property
    def losses(self) -> list[str]:
        """Names of the losses, such as mlm."""
        names = {name for row in self.train + self.validation for name in row}
        return sorted(name.removesuffix("_loss") for name in names if name.endswith("_loss"))

    @property
    def pair_loss(self) -> str | None:
        """Name of the loss about pairs of segments, if there is one."""
        return next((name for name in self.losses if name in PAIRS), None)

    @property
    def is_branch(self) -> bool:
        """Whether it goes on with the steps of the run before (decay_from)."""
        return bool(self.setting("decay_from"))

    @property
    def batch_size(self) -> int:
        """Sequences of an optimizer step; 0: not known."""
        return self.record.get("batch", {}).get("train_batch_size", 0)


def read_phases(folder: Path) -> list[Phase]:
    """The phases of a run, the first one first: its own log, and of those that it began from.

    Raises:
        DataError: the folder has no log.
    """
    phases = [_read(folder)]
    while len(phases) < _MAX_PHASES and (before := _phase_before(phases[0])) is not None:
        if any(before.folder.resolve() == phase.folder.resolve() for phase in phases):
            break
        phases.insert(0, before)
    first = 0
    for number, phase in enumerate(phases[1:], 1):
        if not phase.is_branch:  # its steps begin at 0
            first += phases[number - 1].step
        phases[number] = replace(phase, first=first)
    return phases


def _read(folder: Path, last_step: int | None = None) -> Phase:
    path = folder / LOG
    try:
        rows = read_rows(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), expected the log of a run; name the "
            "output_dir of a run, such as runs/seq128"
        ) from None
    rows = [row for row in rows if last_step is None or row["step"] <= last_step]
    return Phase(folder, rows, _record(folder / RECORD), 0, _diverged(folder, rows))


def read_rows(path: Path) -> list[Row]:
    """Rows of a file of JSON lines that have a step and are whole: the last may be half written.

    Raises:
        OSError: it cannot be read.
    """
    return list(_objects(path.read_bytes().decode("utf-8", "replace").split("\n")))


def _objects(lines: list[str]) -> Iterator[Row]:
    for line in lines:
        try:
            row = files.parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row


def _record(path: Path) -> dict[str, Any]:
    try:
        record = files.parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _diverged(folder: Path, rows: list[Row]) -> dict[str, Any] | None:
    """The diagnosis of the last divergence, unless the run has gone on behind it."""
    found = [_record(path) for path in folder.glob(_DIAGNOSES)]
    newest = max(found, key=lambda record: record.get("last_step", 0), default=None)
    done = max((row["step"] for row in rows), default=0)
    return newest if newest and newest.get("last_step", -1) >= done else None


def _phase_before(phase: Phase) -> Phase | None:
    """The run whose weights a run began from, up to the checkpoint that it took."""
    source = phase.setting("decay_from") or phase.setting("init_from", "")
    for place in near(phase.folder, source):
        for level, folder in enumerate((place, *place.parents)[:_LEVELS]):
            if (folder / LOG).is_file() and (folder / RECORD).is_file():
                return _read(folder, _step_in(place, level))
    return None


def _step_in(place: Path, levels: int) -> int | None:
    """The step of a checkpoint that a path below a run's folder goes through; None: the last."""
    for part in place.parts[len(place.parts) - levels :]:
        number = part.removeprefix("step_")
        if part != number and number.isdecimal():
            return int(number)
    return None


def run_name(folder: Path) -> str:
    """A run's name for people: the last part of its folder's real path."""
    return os.path.basename(os.path.abspath(folder)) or str(folder)


def near(folder: Path, source: str) -> Iterator[Path]:
    """Where a relative path of a run's settings may lead: from here, or from above the run."""
    if source:
        yield from (base / source for base in (Path(), *folder.resolve().parents))
