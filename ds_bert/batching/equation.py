"""The batch equation: sequences of a step = micro-batch x accumulation x ranks."""

from dataclasses import dataclass
from typing import Any

from ds_bert.batching.ramp import BatchRamp
from ds_bert.config import MICRO_BATCH
from ds_bert.errors import ConfigurationError, require
from ds_bert.limits.training import MAX_MICRO_BATCH

MAX_BATCH = 2**24  # sequences of a step; each rank lists all of them
AUTO = "auto"  # as micro-batch size: to be measured (ds_bert/training/micro_batch.py)


@dataclass(frozen=True)
class BatchPlan:
    """train_batch_size = micro_batch_size x accumulation_steps x world_size, in sequences.

    A ramp has smaller steps before, of fewer micro-batches.
    """

    train_batch_size: int
    micro_batch_size: int
    accumulation_steps: int
    world_size: int
    ramp: BatchRamp

    @property
    def divisible_share(self) -> int:
        """Sequences of a rank that micro-batches have to divide, whichever step it is."""
        return self.ramp.unit // self.world_size

    def __str__(self) -> str:
        ramp = f"; from {self.ramp}" if self.ramp.samples else ""
        return (
            f"train_batch_size {self.train_batch_size:,} = micro-batch {self.micro_batch_size} x "
            f"accumulation {self.accumulation_steps} x ranks {self.world_size}{ramp}"
        )


def plan_batch(
    recipe: dict[str, Any], world_size: int, is_elastic: bool = False, ramp: str | None = None
) -> BatchPlan:
    """Derive the accumulation for this number of ranks; "auto" counts as a micro-batch of 1.

    Args:
        recipe: DeepSpeed's part.
        world_size: number of ranks.
        is_elastic: the micro-batch may be smaller than the recipe's, if that makes it fit.
        ramp: batch_ramp of the recipe.

    Raises:
        ConfigurationError: a size is missing or not positive, the ramp is none, or the equation has
            no solution; the message names the nearest sizes that have one.
    """
    batch = _size(recipe, "train_batch_size", MAX_BATCH)
    is_open = recipe.get(MICRO_BATCH) == AUTO
    micro = 1 if is_open else _size(recipe, MICRO_BATCH, MAX_MICRO_BATCH, f', or "{AUTO}"')
    sizes = BatchRamp.of(ramp, batch)
    if is_elastic and sizes.unit % world_size == 0:
        micro = _largest_micro_batch(sizes.unit // world_size, micro)
    if sizes.unit % (micro * world_size) == 0:
        return BatchPlan(batch, micro, batch // (micro * world_size), world_size, sizes)
    if batch % (micro * world_size) == 0:
        raise ConfigurationError(_impossible_ramp(sizes, micro, world_size))
    raise ConfigurationError(_impossible_batch(batch, micro, world_size))


def _size(recipe: dict[str, Any], key: str, most: int, otherwise: str = "") -> int:
    value: Any = recipe.get(key)
    is_size = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
    require(is_size, key, value, f"a whole number of at least 1 and at most {most:,}{otherwise}")
    return value


def _largest_micro_batch(share: int, most: int) -> int:
    """The largest divisor of a rank's share of the batch up to `most`."""
    return next(size for size in range(min(most, share), 0, -1) if share % size == 0)


def _impossible_batch(batch: int, micro: int, world_size: int) -> str:
    unit = micro * world_size
    below, above = batch // unit * unit, (batch // unit + 1) * unit
    cures = [f"train_batch_size {' or '.join(str(size) for size in (below, above) if size)}"]
    if batch % world_size == 0:
        largest = _largest_micro_batch(batch // world_size, micro)
        cures.append(f"train_micro_batch_size_per_gpu {largest}")
    return (
        f"impossible batch: train_batch_size {batch} is not a multiple of "
        f"{micro} (train_micro_batch_size_per_gpu) x {world_size} (ranks) = {unit}; "
        f"use {' or '.join(cures)}"
    )


def _impossible_ramp(ramp: BatchRamp, micro: int, world_size: int) -> str:
    unit = micro * world_size
    cures = [f"start and increment that are multiples of {unit}"]
    if ramp.unit % world_size == 0:
        largest = _largest_micro_batch(ramp.unit // world_size, micro)
        cures.append(f"train_micro_batch_size_per_gpu {largest}")
    return (
        f"impossible batch_ramp: its start {ramp.start} or increment {ramp.increment} is not a "
        f"multiple of {micro} (train_micro_batch_size_per_gpu) x {world_size} (ranks) = {unit}; "
        f"use {' or '.join(cures)}"
    )
