"""How far loss curves are apart, and how far they may be.

The bars were set before the first whole run: twice the distance that rounding makes, `NEGLIGIBLE`
if that is more; with dropout, Student's t at 95 %.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW, FINAL = 50, 200  # steps: of the moving average; at the end, for the final loss
NEGLIGIBLE = 1e-3  # nats
FP8_LOSS = 0.01  # relative, of the final loss
LEARNED = 0.1  # nats below the entropy of single tokens
T_95 = 2.776  # Student's t, 4 degrees of freedom: two times three seeds

Losses = NDArray[np.float64]  # [steps, 2]: masked-LM and next-sentence loss


def smooth(losses: Losses) -> NDArray[np.float64]:
    """Mean of the whole loss over `WINDOW` steps, from the first whole window on."""
    total = losses.sum(1)
    width = min(WINDOW, len(total))
    return np.convolve(total, np.full(width, 1 / width), "valid")


def final(losses: Losses) -> float:
    return float(losses[-FINAL:].sum(1).mean())


def distance(one: Losses, other: Losses) -> float:
    """Largest difference of the smoothed losses."""
    return float(np.abs(smooth(one) - smooth(other)).max())


def points(losses: Losses, values: NDArray[np.float64]) -> dict[str, list]:
    """A smoothed curve at every `WINDOW`-th step, and at the last."""
    first = min(WINDOW, len(losses))
    steps = np.arange(first, len(losses) + 1, first)
    return {"step": steps.tolist(), "curve": values[steps - first].round(6).tolist()}


def describe(losses: Losses) -> dict[str, Any]:
    """What is kept of one run."""
    masked_lm, next_sentence = losses[-FINAL:].mean(0).tolist()
    return {
        "final_loss": final(losses),
        "final_masked_lm_loss": masked_lm,
        "final_next_sentence_loss": next_sentence,
        **points(losses, smooth(losses)),
    }


def compare(one: Losses, other: Losses) -> dict[str, Any]:
    """How far two curves are apart."""
    gap = smooth(one) - smooth(other)
    first = min(WINDOW, len(one))
    beyond = np.flatnonzero(np.abs(gap) > NEGLIGIBLE)
    return {
        "largest_difference": distance(one, other),
        "root_mean_square": float(np.sqrt(np.square(gap).mean())),
        "final_difference": final(one) - final(other),
        "negligible_until_step": int(beyond[0]) + first - 1 if len(beyond) else len(one),
        **points(one, gap),
    }


def within_noise(one: Losses, other: Losses, noise: float) -> dict[str, Any]:
    """Whether curves are as close as rounding lets them be; `noise` is what that alone makes."""
    bar = max(2 * noise, NEGLIGIBLE)
    return {"bar": bar, "passed": distance(one, other) <= bar}  # False for NaN


def as_good(one: Losses, other: Losses) -> dict[str, Any]:
    """Whether fp8 ends where bf16 ends."""
    bar = FP8_LOSS * final(other)
    return {"bar": bar, "passed": abs(final(one) - final(other)) <= bar}


def compare_seeds(ours: Sequence[Losses], plain: Sequence[Losses]) -> dict[str, Any]:
    """Difference of the mean final losses of runs with dropout, against its standard error."""
    found, expected = np.array([*map(final, ours)]), np.array([*map(final, plain)])
    error = math.sqrt((found.var(ddof=1) + expected.var(ddof=1)) / len(found))
    difference = float(found.mean() - expected.mean())
    return {
        "mean_final_loss": float(found.mean()),
        "mean_final_loss_of_plain": float(expected.mean()),
        "difference": difference,
        "standard_error": error,
        "paired_standard_error": float((found - expected).std(ddof=1) / math.sqrt(len(found))),
        "bar": T_95 * error,
        "passed": abs(difference) <= T_95 * error,
    }


def learned(runs: Sequence[Losses], entropy: float) -> dict[str, Any]:
    """Whether all runs know more than how frequent each token is."""
    worst = max(float(losses[-FINAL:, 0].mean()) for losses in runs)
    return {
        "entropy_of_single_tokens": entropy,
        "worst_final_masked_lm_loss": worst,
        "passed": worst <= entropy - LEARNED,
    }
