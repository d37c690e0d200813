"""Where this process stands in its run, for those who watch it; cheap enough for every step."""

import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

_HOUSE = Path(__file__).parent.parent
FADING = 0.9  # of a time that is longer than those after it
_COLLECTIVES = ("torch/distributed/", "deepspeed/comm/")


@dataclass
class Standing:
    """What the process is doing.

    Attributes:
        phase: a key of `watchdog.LIMITS`.
        step: optimizer step, from 1; 0 before the first.
        moves: how often it has made progress.
        since: when the phase began (time.monotonic).
        took: seconds by phase, about the longest of the last few.
        saves_beside: whether threads write a checkpoint meanwhile.
    """

    phase: str = "start"
    step: int = 0
    moves: int = 0
    since: float = field(default_factory=time.monotonic)
    took: dict[str, float] = field(default_factory=dict)
    saves_beside: bool = False


NOW = Standing()


def at(phase: str, step: int | None = None) -> None:
    """Progress: a phase begins, of a step or of the same as before."""
    now = time.monotonic()
    NOW.took[NOW.phase] = max(now - NOW.since, FADING * NOW.took.get(NOW.phase, 0.0))
    NOW.phase, NOW.since = phase, now
    NOW.step = NOW.step if step is None else step
    NOW.moves += 1


def took(phase: str, seconds: float) -> None:
    """Count what was done in part beside other phases."""
    NOW.took[phase] = max(seconds, NOW.took.get(phase, 0.0))


def moved(*_: Any) -> None:
    """Progress within a phase (a hook of a module's forward)."""
    NOW.moves += 1


def main_thread() -> tuple[str, bool]:
    """The line of ds_bert that the main thread is in, and whether it waits for other ranks."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    frames = list(_outwards(frame))
    waits = any(part in f.f_code.co_filename for f in frames for part in _COLLECTIVES)
    ours = (f for f in frames if _HOUSE in Path(f.f_code.co_filename).parents)
    for f in ours:
        return f"{Path(f.f_code.co_filename).relative_to(_HOUSE)}:{f.f_lineno}", waits
    return "", waits


def _outwards(frame: FrameType | None):
    while frame is not None:
        yield frame
        frame = frame.f_back
