"""A few sequences learnt by heart: whether data, masks, model and optimizer fit together.

A model that cannot learn 64 sequences with the same masks every time, without dropout, will not
learn a corpus. Trainer, engine, optimizer and its peak rate are those of the run.
"""

import time
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ds_bert import distributed, launcher
from ds_bert.config import MICRO_BATCH, TrainingConfig
from ds_bert.errors import ConfigurationError, TrainingDiverged
from ds_bert.evaluation.metrics import loss_names
from ds_bert.guards.stop import StopRequest
from ds_bert.instances.mixture import SampleOrder
from ds_bert.rehearsal.steps import Rehearsal, shortened
from ds_bert.training.plan import Plan
from ds_bert.training.run import build_engine, run
from ds_bert.training.saves import State

NEAR_ZERO = 0.1  # nats; of each loss
MAX_STEPS, MAX_SECONDS, WARMUP = 300, 120.0, 20
NOT_LEARNT = 1  # exit code
_FELL = 0.5  # of the first loss: whoever is below has begun to learn
_MICRO_BATCH = 16  # sequences at most, where the recipe leaves it open


def overfit(config: TrainingConfig, recipe: dict[str, Any], number: int) -> int:
    """Train on so many sequences until each loss is near zero, and tell; returns the exit code.

    Nothing is written into the run's folder.

    Args:
        config: of the run.
        recipe: DeepSpeed's part.
        number: of sequences, a multiple of the ranks.

    Raises:
        ConfigurationError: the sequences cannot be shared out among the ranks.
    """
    _, world_size = launcher.place()
    if number % world_size:
        raise ConfigurationError(
            f"--overfit: found {number} sequences for {world_size} ranks, expected a multiple of "
            f"{world_size}"
        )
    with TemporaryDirectory(prefix="ds_bert_overfit_") as folder:
        short = replace(
            shortened(config, folder, MAX_STEPS),
            lr_scheduler_type="linear",  # at a rate that stays, the loss may rise again
            warmup_steps=min(WARMUP, MAX_STEPS),
            max_loss_spike=0.0,
            log_interval=10,
            masking="static",
            validation_data="",
            corpus_weights=None,
            batch_ramp=None,
        )
        return run(short, _in_one_batch(recipe, number, world_size), partial(_learn, number))


def _in_one_batch(recipe: dict[str, Any], number: int, world_size: int) -> dict[str, Any]:
    """The recipe with all sequences in each step, in micro-batches like its own."""
    share, micro = number // world_size, recipe.get(MICRO_BATCH)
    most = min(share, micro if isinstance(micro, int) and micro > 0 else _MICRO_BATCH)
    size = next(size for size in range(most, 0, -1) if share % size == 0)
    return {**recipe, "train_batch_size": number, MICRO_BATCH: size}


def _learn(number: int, plan: Plan, device: torch.device, stop: StopRequest) -> int:
    """Train, and judge by the first and last row of the log."""
    found = len(plan.train_table)
    if found < number:
        raise ConfigurationError(
            f"--overfit: found {found:,} sequences in {plan.config.train_data}, expected at least "
            f"{number:,}; ask for fewer"
        )
    plan = replace(plan, order=SampleOrder.by_size(number, plan.config.seed))
    distributed.log(
        f"overfit: {number:,} sequences of {plan.config.train_data}, the same masks in each step, "
        f"no dropout, at most {MAX_STEPS:,} steps or {MAX_SECONDS:g} s"
    )
    engine, _ = build_engine(plan, device)
    _without_dropout(engine.module)
    rows: list[dict[str, Any]] = []
    start = time.monotonic()

    def hear(row: dict[str, Any]) -> None:
        rows.append(row)
        if _is_learnt(row):
            stop.ask("learnt")
        elif max(distributed.gather(time.monotonic() - start)) > MAX_SECONDS:
            stop.ask(f"{MAX_SECONDS:g} s are over")

    try:
        code = Rehearsal(hear, plan, engine, State(), device, request=stop).train()
    except TrainingDiverged:
        return _tell(False, "the loss was no number; try a rate ten times lower")
    if not rows:  # somebody else has asked to stop
        return code
    return _tell(_is_learnt(rows[-1]), verdict(rows[0], rows[-1]))


def _without_dropout(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _losses(row: dict[str, Any]) -> dict[str, float]:
    return {name: row[f"{name}_loss"] for name in loss_names(row)}


def _is_learnt(row: dict[str, Any]) -> bool:
    return max(_losses(row).values()) < NEAR_ZERO


def verdict(first: dict[str, Any], last: dict[str, Any]) -> str:
    """What the first and the last row of a log mean, in words."""
    before, after = _losses(first), _losses(last)
    change = ", ".join(f"{name}_loss {before[name]:.3f} to {after[name]:.3f}" for name in after)
    told = f"{change} in {last['step']:,} steps"
    if _is_learnt(last):
        return (
            f"{told}; data, labels, masks, model and optimizer fit together. It says nothing about "
            "text that the model has not seen"
        )
    if sum(after.values()) > _FELL * sum(before.values()):
        return (
            f"{told}: hardly anything was learnt. Rate far too low or too high? Look at the "
            "data: ds-bert inspect; try --overfit 8, and a rate ten times lower or higher"
        )
    late = ", ".join(name for name, loss in after.items() if loss >= NEAR_ZERO)
    return (
        f"{told}: it learns, but {late} not to the end. Time or steps did not suffice: try "
        "--overfit 8, a higher rate, or a GPU; if one loss alone stays, look at its labels: "
        "ds-bert inspect"
    )


def _tell(passed: bool, text: str) -> int:
    distributed.log(f"overfit: {'passed' if passed else 'FAILED'}: {text}")
    return 0 if passed else NOT_LEARNT
