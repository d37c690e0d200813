"""What chance costs a run on many ranks: the slowest of all, and hosts that fail. Simulated."""

from math import sqrt
from statistics import NormalDist

import numpy as np

from time_model.step import sample


def slowest(ranks: int, jitter: float) -> float:
    """Expected time of the slowest rank by the mean, where times are normal.

    Args:
        ranks: how many, independent of each other.
        jitter: standard deviation of a rank's time of a step, by its mean.

    Source: Blom 1958, "Statistical Estimates and Transformed Beta-Variables": the largest of n.
    """
    if ranks == 1:
        return 1.0
    return 1 + jitter * NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))


def jitter_of_lengths(kind: str, length: int, sequences: int) -> float:
    """Standard deviation of a rank's tokens in a step, by their mean; unpadded, not packed."""
    lengths = sample(kind, length)
    return float(lengths.std() / lengths.mean() / sqrt(sequences))


def simulate_steps(
    ranks: int, kind: str, length: int, sequences: int, steps: int = 200, seed: int = 0
) -> float:
    """Tokens of the rank that has most, by the mean, over steps with lengths drawn at random."""
    random = np.random.default_rng(seed)
    tokens = np.empty((steps, ranks))
    for step in tokens:  # one step's lengths at a time: 512 ranks have many
        step[:] = random.choice(sample(kind, length), (ranks, sequences)).sum(axis=1)
    return float((tokens.max(axis=1) / tokens.mean(axis=1)).mean())


def simulate_failures(
    interval: float,
    save: float,
    between_failures: float,
    restart: float,
    saves: int = 20_000,
    seed: int = 0,
) -> float:
    """Share of its time that a run gets on, until so many saves are made; times in seconds.

    Args:
        interval: of training between two saves.
        save: that a save keeps training waiting.
        between_failures: mean time between failures, which come independently of each other.
        restart: from a failure to where the last save was made.
        saves: how many.
        seed: of chance.
    """
    random = np.random.default_rng(seed)
    clock, done, failure = 0.0, 0, random.exponential(between_failures)
    while done < saves:
        end = clock + interval + save
        if failure >= end:
            clock, done = end, done + 1
            continue
        clock = failure
        while (failure := clock + random.exponential(between_failures)) < clock + restart:
            clock = failure
        clock += restart
    return saves * interval / clock
