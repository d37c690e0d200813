"""How long a run takes at a speed: training, validations, saves."""

from dataclasses import dataclass
from typing import NamedTuple

_FORWARD = 1 / 3  # of training's operations: what validation computes (model/flops.py)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run does, in numbers.

    Attributes:
        max_steps: optimizer steps in all.
        warmup_steps: of these.
        train_batch_size: sequences of a step.
        flops: of a sequence, forward and backward, on average.
        tokens: of a sequence, on average.
        max_seq_length: of the longest.
        num_rows: sequences of the data set.
        eval_sequences: of a validation; 0: none.
        eval_interval: steps from one to the next; 0: at the end only.
        save_interval: the same of checkpoints.
        save_seconds: that a checkpoint keeps training waiting.
        max_seconds: time limit of the process; None: none.
        fewer: sequences that steps of a ramp lack together.
    """

    max_steps: int
    warmup_steps: int
    train_batch_size: int
    flops: float
    tokens: float
    max_seq_length: int
    num_rows: int
    eval_sequences: int
    eval_interval: int
    save_interval: int
    save_seconds: float
    max_seconds: float | None = None
    fewer: int = 0

    @property
    def samples(self) -> int:
        """Sequences of the whole run."""
        return self.max_steps * self.train_batch_size - self.fewer

    @property
    def epochs(self) -> float:
        """How often the data set is gone through."""
        return self.samples / max(1, self.num_rows)

    @property
    def num_validations(self) -> int:
        """Of the whole run; the last step has one."""
        return _times(self.max_steps, self.eval_interval) if self.eval_sequences else 0

    @property
    def num_saves(self) -> int:
        """Of the whole run, the last one included."""
        return _times(self.max_steps, self.save_interval)

    @property
    def total_flops(self) -> float:
        """Of the whole run, validations included."""
        validated = self.num_validations * self.eval_sequences * _FORWARD
        return (self.samples + validated) * self.flops


def _times(steps: int, interval: int) -> int:
    return -(-steps // interval) if interval else 1


class Speed(NamedTuple):
    """How fast a run is.

    Attributes:
        flops_per_second: of all ranks together.
        source: where that is from, in words.
        memory: bytes of a rank that were seen; None: not measured.
    """

    flops_per_second: float
    source: str
    memory: int | None = None


class Seconds(NamedTuple):
    """What a run takes."""

    training: float
    validation: float
    saves: float

    @property
    def total(self) -> float:
        """All of it, without the start."""
        return sum(self)


def seconds(work: Work, speed: Speed) -> Seconds:
    """What a run takes at a speed."""
    a_sequence = work.flops / speed.flops_per_second
    validated = work.num_validations * work.eval_sequences * _FORWARD
    saves = work.num_saves * work.save_seconds
    return Seconds(work.samples * a_sequence, validated * a_sequence, saves)


def steps_within(work: Work, speed: Speed, limit: float) -> int:
    """Optimizer steps that are done in so many seconds, at most all of them.

    Those of a ramp are taken to be over by then.
    """
    samples = work.samples * limit / seconds(work, speed).total
    return min(work.max_steps, int((samples + work.fewer) / work.train_batch_size))


def price(total_seconds: float, machines: int, per_hour: float) -> float:
    """What so many GPUs (or machines) cost for that time."""
    return total_seconds / 3600 * machines * per_hour
