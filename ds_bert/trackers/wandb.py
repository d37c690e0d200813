"""Weights & Biases, and Trackio, which has the same calls. Their variables say where to."""

import os
import uuid
from typing import Any

from ds_bert.trackers.tracker import Start

PROJECT = "ds_bert"


class Wandb:
    """A run of Weights & Biases; files of WANDB_MODE=offline lie in the folder wandb of the run."""

    def __init__(self, start: Start):
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        is_online = os.environ.get("WANDB_MODE", "online") == "online"
        if is_online and not wandb.login(prompt=False):  # init would ask on a terminal, and wait
            raise RuntimeError("no API key; run `wandb login`, or set WANDB_MODE=offline")
        self.id = start.id or os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", start.name),
            id=self.id,
            resume="allow",
            dir=start.folder,
            config=start.record,
            settings=settings,
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        """Draw values at a step."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """End the run there, with all that was logged sent or written."""
        self._run.finish()


class Trackio:
    """A run of Trackio; its name is what it is found by again."""

    def __init__(self, start: Start):
        import trackio
        import trackio.run

        for module in (trackio, trackio.run, trackio.utils):
            module.print = _say_nothing  # it has no switch for its banner
        self.id = start.id or f"{start.name}-{uuid.uuid4().hex[:8]}"
        self._run: Any = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.id,
            resume="allow",
            config=start.settings,
            embed=False,
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        """Draw values at a step."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """End the run there, with all that was logged sent or written."""
        self._run.finish()


def _say_nothing(*_: Any, **__: Any) -> None:
    """In place of print."""
