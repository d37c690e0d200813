"""Hours shared out: what is left for a phase, and the steps that fit into it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from ds_bert.costs.hours import Speed, Work, seconds

SEQUENCES = (0.9, 0.1)  # of all, in the first and the second phase. Source: Devlin et al. 2019, A.2
FILLED = 0.93  # of a phase's time: speed changes, and what is left goes to the next one
INTERVALS = 10  # validations and saves of a phase, where the recipe does not say
ROWS = 200  # of its log
LOOKS = (0.2, 0.55)  # shares of a phase's time at which its pace is looked at
_FAR = 0.12  # off: then its steps are changed
_LAST = 0.05  # of the steps done, for the rate to decay where time has run out
_PROCESS = 30.0  # seconds: a command starts, loads, writes
_TAIL = 0.25  # of the hours at most for what comes after training
_LENGTH = 32  # tokens of a sentence that is asked for


class Judged(NamedTuple):
    """What is computed after training.

    Attributes:
        sequences: of the validation data, whole ones.
        sentences: guessed token by token (pseudo_perplexity).
        scored: tokens of training that take as long as a score.
    """

    sequences: int
    sentences: int = 0
    scored: float = 0.0


def shares(flops: Mapping[str, float]) -> dict[str, float]:
    """Of the time of training, by phase: nine sequences in the first for one in the second.

    Args:
        flops: of a sequence of each phase.
    """
    parts = {
        name: share * cost for (name, cost), share in zip(flops.items(), SEQUENCES, strict=False)
    }
    return {name: part / sum(parts.values()) for name, part in parts.items()}


def tail_seconds(judged: Judged, flops_of_token: float, speed: float, num_stages: int) -> float:
    """About what evaluation, score and export take.

    Args:
        judged: what they compute.
        flops_of_token: forward and backward.
        speed: FLOP/s.
        num_stages: how many they are.
    """
    guessed = judged.sequences + judged.sentences * _LENGTH * _LENGTH / 512
    tokens = guessed * 512 / 3 + judged.scored
    return _PROCESS * num_stages + tokens * flops_of_token / speed


def budget(total: float, used: float, tail: float, later: float) -> float:
    """Seconds that a phase may take.

    Args:
        total: of the whole road.
        used: by the stages so far.
        tail: of what comes after training.
        later: the share of the remaining time of training that belongs to later phases.
    """
    return (total - used - min(tail, _TAIL * total)) * (1 - later)


def work_at(work: Work, steps: int, eval_interval: int | None, save_interval: int | None) -> Work:
    """The work of so many steps; an interval that is None divides them."""
    part = max(1, steps // INTERVALS)
    return replace(
        work,
        max_steps=steps,
        eval_interval=part if eval_interval is None else eval_interval,
        save_interval=part if save_interval is None else save_interval,
    )


def steps_within(
    work: Work,
    speed: Speed,
    limit: float,
    eval_interval: int | None = None,
    save_interval: int | None = None,
    most: int = 10**9,
) -> int:
    """The most optimizer steps whose run, validations and saves included, ends within a time.

    Args:
        work: of a run of any length.
        speed: measured.
        limit: seconds.
        eval_interval: in steps, as the recipe says; None: a share of the steps.
        save_interval: likewise.
        most: steps at most.

    Returns:
        0 where not even one step fits.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        run = work_at(work, middle, eval_interval, save_interval)
        fits = seconds(run, speed).total <= limit
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def steps_by_pace(done: int, max_steps: int, pace: float, left: float, restart: float) -> int:
    """`max_steps` of a run by the pace that it has; the same where that is about right.

    Args:
        done: steps so far.
        max_steps: as it was timed before it began.
        pace: seconds of a step, validations and saves included.
        left: seconds of its time.
        restart: seconds that a change takes: save, stop, start.
    """
    if abs((max_steps - done) * pace - left) <= max(_FAR * left, 2 * restart):
        return max_steps
    return done + max(1, int((FILLED * left - restart) / pace))


def steps_to_end(done: int, max_steps: int) -> int:
    """`max_steps` of a run whose time is over: a few steps more in which the rate decays."""
    return min(max_steps, done + max(1, round(_LAST * done)))
