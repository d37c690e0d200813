"""What every tracker is: a copy of metrics.jsonl somewhere else, and how far it has come."""

import json
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ds_bert import files


class Tracker(Protocol):
    """Draws the curves of one run.

    Attributes:
        id: of the run at the tracker; a later process goes on with it.
    """

    id: str

    def log(self, step: int, values: dict[str, float]) -> None:
        """Draw values at an optimizer step; steps come in their order."""

    def close(self) -> None:
        """Have all that was logged written or sent."""


@dataclass(frozen=True)
class Start:
    """With what a tracker begins.

    Attributes:
        folder: of the run.
        step: optimizer steps done; what was drawn behind it comes again.
        id: of the run at the tracker, "": a new one.
        record: the run's config.json.
    """

    folder: Path
    step: int
    id: str
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """The run for a person."""
        return self.folder.resolve().name

    @property
    def settings(self) -> dict[str, Any]:
        """The record flat: plain values by dotted names."""
        return _flat(self.record)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            flat[prefix + name] = value
        else:
            flat[prefix + name] = json.dumps(value)
    return flat


class Bookmark:
    """How far a tracker has come, kept in `trackers/NAME.json` of the run's folder.

    Args:
        folder: of the run.
        name: of the tracker.
        lag: seconds from a row's successor until the row is safe; 0: it is when it is drawn.

    Attributes:
        id: of the run at the tracker, "" for none yet.
        step: the last that is safely drawn, -1 for none.
    """

    def __init__(self, folder: Path, name: str, lag: float = 0.0):
        self._lag, self._drawn = lag, deque[tuple[float, int]]()
        self._path = folder / "trackers" / f"{name}.json"
        self.id, self.step = "", -1
        try:
            kept = files.parse_json(self._path.read_text(encoding="utf-8"))
            self.id, self.step = str(kept["id"]), int(kept["step"])
        except (OSError, ValueError, KeyError, TypeError):
            return  # none, or damaged: drawn anew

    def begin(self, id: str) -> None:
        """The tracker is here; this, as the rest, raises OSError where it cannot be written."""
        self.id = id
        self._path.parent.mkdir(exist_ok=True)
        self._keep()

    def move(self, step: int) -> None:
        """All up to this step is drawn."""
        now = time.monotonic()
        if not self._drawn or self._drawn[-1][1] < step:
            self._drawn.append((now, step))
        while len(self._drawn) > 1 and self._drawn[1][0] <= now - self._lag:
            self.step = self._drawn.popleft()[1]
        if not self._lag:
            self.step = step
        self._keep()

    def keep_last(self) -> None:
        """All that was drawn is safe."""
        if self._drawn:
            self.step = self._drawn[-1][1]
            self._keep()

    def _keep(self) -> None:
        text = files.as_json({"id": self.id, "step": self.step}) + "\n"
        files.write_text(self._path, text)
