"""What in a run contradicts itself, its data or its machine: warnings, the worst first."""

from collections.abc import Iterator
from typing import NamedTuple

from ds_bert.costs.hours import Speed, Work, steps_within

# Muennighoff et al. 2023, "Scaling Data-Constrained Language Models": up to 4 epochs are nearly as
# good as new text, at 16 the gain has fallen to a third, at 40 there is none.
GOOD_EPOCHS, MANY_EPOCHS = 4, 16
_LONG_WARMUP = 0.5
_NEVER, _WASTE, _DOUBT = 1, 2, 3  # it does not run; money is lost; a look is worth it


class Warning(NamedTuple):
    """Something to mend, with its cure.

    Attributes:
        rank: 1 is the worst.
        text: what was found, and what to do.
    """

    rank: int
    text: str


def contradictions(
    work: Work, needed: float, available: float, speed: Speed | None, batch_problem: str | None
) -> list[Warning]:
    """All of them, the worst first.

    Args:
        work: the run.
        needed: bytes of memory of a rank.
        available: bytes that its device has.
        speed: None: not known.
        batch_problem: why the batch cannot be shared out among the ranks; None: it can.
    """
    found = [
        *_fitting(needed, available, batch_problem),
        *_in_time(work, speed),
        *_of_data(work),
        *_of_intervals(work),
    ]
    return sorted(found, key=lambda warning: warning.rank)


def _fitting(needed: float, available: float, batch_problem: str | None) -> Iterator[Warning]:
    if batch_problem:
        yield Warning(_NEVER, batch_problem)
    if needed > available:
        yield Warning(
            _NEVER,
            f"memory: {needed / 1e9:,.1f} GB are needed, {available / 1e9:,.1f} GB are there; take "
            "a smaller micro-batch, a shorter max_seq_length or a smaller model",
        )


def _in_time(work: Work, speed: Speed | None) -> Iterator[Warning]:
    if speed is None or work.max_seconds is None:
        return
    reached = steps_within(work, speed, work.max_seconds)
    if reached < work.warmup_steps:
        yield Warning(
            _WASTE,
            f"max_time ends at about step {reached:,}, within the warm-up of "
            f"{work.warmup_steps:,}; set max_steps to what the time allows",
        )
    elif reached < work.max_steps:
        yield Warning(
            _WASTE,
            f"max_time ends at about step {reached:,} of {work.max_steps:,}, before the rate has "
            f"come down; set max_steps {reached} for one process, or start it again to go on",
        )


def _of_data(work: Work) -> Iterator[Warning]:
    if work.num_rows < work.train_batch_size:
        yield Warning(
            _WASTE,
            f"a step takes {work.train_batch_size:,} sequences, the data set has "
            f"{work.num_rows:,}; take a smaller train_batch_size or more text",
        )
    if work.epochs > GOOD_EPOCHS:
        worth = "hardly anything" if work.epochs > MANY_EPOCHS else "less than new text"
        yield Warning(
            _WASTE if work.epochs > MANY_EPOCHS else _DOUBT,
            f"the data are repeated {work.epochs:,.1f} times; beyond {GOOD_EPOCHS} a repetition is "
            f"worth {worth} (Muennighoff et al. 2023); train shorter, or on more",
        )


def _of_intervals(work: Work) -> Iterator[Warning]:
    if work.warmup_steps > _LONG_WARMUP * work.max_steps:
        yield Warning(
            _DOUBT,
            f"warm-up takes {work.warmup_steps:,} of {work.max_steps:,} steps; a tenth is usual",
        )
    for name in ("eval_interval", "save_interval"):
        interval = getattr(work, name)
        if interval > work.max_steps:
            yield Warning(
                _DOUBT,
                f"{name} {interval:,} is longer than the run ({work.max_steps:,} steps): only its "
                "end has one; take a shorter one, or 0 to say so",
            )
    if not work.eval_sequences:
        yield Warning(
            _DOUBT, "no validation data: nobody will see when repetition begins to do harm"
        )
