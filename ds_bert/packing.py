"""Micro-batches of nearly the same number of tokens, so that no rank waits for another."""

import numpy as np
from numpy.typing import NDArray


def deal(lengths: NDArray[np.int64], num_batches: int) -> NDArray[np.int64]:
    """Share sequences out, the same number to each batch, with nearly equal sums of tokens.

    The longest go to the batches in turn, the next longest in the opposite order, and so on.

    Args:
        lengths: [N] tokens of each sequence; N is a multiple of num_batches.
        num_batches: how many to make.

    Returns:
        int64 [num_batches, N / num_batches], indices into lengths.
    """
    rounds = np.argsort(-lengths, kind="stable").reshape(-1, num_batches)
    rounds[1::2] = rounds[1::2, ::-1].copy()
    return np.ascontiguousarray(rounds.T)
