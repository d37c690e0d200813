"""A few steps of the run's own trainer, in a folder that is gone afterwards."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ds_bert import distributed, files
from ds_bert.config import TrainingConfig
from ds_bert.costs.hours import Speed
from ds_bert.errors import STOPPED_ON_REQUEST, UserError
from ds_bert.guards.stop import StopRequest
from ds_bert.training import micro_batch
from ds_bert.training.plan import Plan
from ds_bert.training.run import build_engine
from ds_bert.training.saves import State
from ds_bert.training.trainer import Trainer

_FIRST = 5  # steps that are not timed: the first ones compile, and take memory
_METRICS = "metrics.jsonl"
_NO_SCHEDULE: dict[str, Any] = dict.fromkeys(  # that ends with the run
    (
        *("warmup_steps", "warmup_proportion", "decay_rate", "decay_step", "decay_steps"),
        *("decay_proportion", "decay_from"),
    )
)


class Rehearsal(Trainer):
    """The trainer of a run that neither validates nor saves.

    Args:
        hear: is given each row of the log, on all ranks.
        given, named: what the trainer is given.
    """

    def __init__(self, hear: Callable[[dict[str, Any]], None], *given: Any, **named: Any):
        super().__init__(*given, **named)
        self._hear = hear

    def _log(self) -> None:
        super()._log()
        self._hear(distributed.on_rank_0(self._last_row))

    def _last_row(self) -> dict[str, Any]:
        path = Path(self.config.output_dir) / _METRICS
        return files.parse_json(path.read_text(encoding="utf-8").splitlines()[-1])

    def _validate(self, last: bool) -> None:
        pass

    def _save(self, is_last: bool) -> None:
        pass

    def _leave(self) -> int:
        return STOPPED_ON_REQUEST


def shortened(config: TrainingConfig, folder: str, max_steps: int) -> TrainingConfig:
    """A run's configuration for a few steps elsewhere, at a rate that stays."""
    return replace(
        config,
        output_dir=folder,
        max_steps=max_steps,
        lr_scheduler_type="constant",
        check_interval=0,
        keep_every=0,
        save_interval=0,
        save_minutes=0.0,
        max_time="",
        resume="auto",
        rollback=False,
        report_seconds=0.0,
        **_NO_SCHEDULE,
    )


def probe(
    plan: Plan, device: torch.device, stop: StopRequest, num_steps: int
) -> tuple[Plan, Speed]:
    """Time so many steps of a run as it would start (a collective).

    Returns:
        the plan, with a micro-batch size; operations per second of all ranks, and the memory of the
        one that takes most.

    Raises:
        ConfigurationError: not one sequence fits into memory.
    """
    as_run = replace(plan, config=replace(plan.config, dry_run=False))  # which would measure
    plan = micro_batch.settle(as_run, device, build_engine)
    first = min(_FIRST, num_steps)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="ds_bert_probe_") as folder:
        config = replace(shortened(plan.config, folder, first + num_steps), log_interval=first)
        engine, _ = build_engine(plan, device)  # of the run: its rates begin low
        short = replace(plan, config=config)
        state = State(samples=plan.batch.ramp.samples)  # behind it: steps of the whole batch
        if Rehearsal(rows.append, short, engine, state, device, request=stop).train():
            raise UserError(f"stopped on request ({stop.reason}); the steps are not timed")
    memory = max(distributed.gather(rows[-1]["memory_bytes"]))
    return plan, Speed(rate(rows), f"of {num_steps} probe steps on this machine", memory)


def rate(rows: list[dict[str, Any]]) -> float:
    """Operations per second over all rows of a log but the first."""
    operations = seconds = 0.0
    for before, row in pairwise(rows):
        took = (row["step"] - before["step"]) * row["seconds_per_step"]
        operations, seconds = operations + row["flops_per_second"] * took, seconds + took
    return operations / seconds
