"""ds_bert/train.py with faults built in: started instead of it, told by the variable TORTURE.

TORTURE is a JSON list of {"do": name of a function below, "rank": on which rank (or on all), and
the function's arguments}. Mostly DeepSpeed's and Python's own functions are replaced, not those of
ds_bert, so that what is attacked is what users run.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder's file names must not shadow other packages

from ds_bert import distributed, errors  # first: chooses DeepSpeed's accelerator

# isort: split
import deepspeed
import torch

from ds_bert.commands.train import main
from ds_bert.training import trainer

ENGINE = deepspeed.DeepSpeedEngine
PLACES: dict[str, tuple[Any, str]] = {
    "step": (ENGINE, "step"),
    "backward": (ENGINE, "backward"),
    "save": (ENGINE, "save_checkpoint"),
    "write": (torch, "save"),
    "validation": (trainer, "evaluate"),
}


def before(place: str, action: Callable[..., Any]) -> None:
    """Call `action(number of the call, arguments)` before a function; it may return arguments."""
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), [0]

    def replaced(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return original(*(action(calls[0], args) or args), **kwargs)

    setattr(owner, name, replaced)


def sleep(place: str, seconds: float, at: int = 0) -> None:
    """Take longer, in every call or in one; what is computed stays the same."""
    before(place, lambda call, args: time.sleep(seconds if at in (0, call) else 0))


def fail(place: str, at: int = 1) -> None:
    """Raise an error that no code expects."""

    def action(call: int, args: tuple) -> None:
        if call == at:
            raise RuntimeError(f"injected into {place}")

    before(place, action)


def scale_loss(factor: float, at: int, times: int = 1) -> None:
    """Multiply the loss of some micro-batches, for instance with NaN."""

    def action(call: int, args: tuple) -> tuple | None:
        engine, loss, *rest = args
        return (engine, loss * factor, *rest) if at <= call < at + times else None

    before("backward", action)


def loop(place: str, at: int = 1) -> None:
    """Never come back, without waiting for anything."""

    def action(call: int, args: tuple) -> None:
        while call == at:
            pass

    before(place, action)


def kill(place: str, at: int = 1, number: int = signal.SIGKILL) -> None:
    """Send this process a signal."""

    def action(call: int, args: tuple) -> None:
        if call == at:
            os.kill(os.getpid(), number)

    before(place, action)


def hide(words: str, seconds: float) -> None:
    """Files with `words` in their names appear in listings late, as caches of NFS have it."""
    original, since = Path.rglob, {}

    def rglob(self: Path, *args: Any, **kwargs: Any) -> Any:
        for path in original(self, *args, **kwargs):
            first = since.setdefault(path, time.monotonic())
            if words not in path.name or time.monotonic() > first + seconds:
                yield path

    Path.rglob = rglob  # type: ignore[method-assign]


def limit_file_size(num_bytes: int) -> None:
    """Let writes behind a size fail, as `ulimit -f` does (Python ignores the signal)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


if __name__ == "__main__":
    for item in json.loads(os.environ["TORTURE"]):
        do, rank = globals()[item.pop("do")], item.pop("rank", None)
        if rank in (None, distributed.rank()):
            do(**item)
    errors.exit_with(main)
