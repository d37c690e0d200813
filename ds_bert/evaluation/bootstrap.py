"""Intervals of ratios of sums: whole documents are drawn anew, with replacement.

Sequences of one document resemble each other, so intervals that took each sequence or token for
an observation of its own would be too narrow.

Source: Efron, Tibshirani 1993, "An Introduction to the Bootstrap", chapters 13 (percentile
intervals) and 8 (clusters as units).
"""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
from ds_bert.rng.streams import BOOTSTRAP, fold_seed, next_index, start_stream

NUM_RESAMPLES, LEVEL = 1000, 0.95
_SEED = 20190524
_AT_ONCE = 32  # resamples that share one way through the documents
_Key = TypeVar("_Key", bound=Hashable)


class Ratio(NamedTuple):
    """A mean as two sums over each document.

    Attributes:
        numerator: float64 [D].
        denominator: float64 [D], such as numbers of masked tokens.
    """

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure, and what it would be of other documents of the same kind.

    Attributes:
        value: of all documents.
        resamples: float64 [NUM_RESAMPLES], of documents drawn with replacement; NaN where none had
            anything to count. Empty: too few documents to say.
        count: the denominator over all documents.
    """

    value: float
    resamples: NDArray[np.float64]
    count: float = math.nan

    @property
    def interval(self) -> list[float]:
        """Ends of the percentile interval of LEVEL; NaN where there are too few documents."""
        known = self.resamples[~np.isnan(self.resamples)]
        if not len(known):
            return [math.nan, math.nan]
        return np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()

    def through(self, function: Callable[[float], float]) -> "Estimate":
        """A function of the figure."""
        values = [function(value) for value in self.resamples.tolist()]
        return Estimate(function(self.value), np.array(values), self.count)

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference of two figures over the same documents: pairs of the same resamples."""
        size = min(len(self.resamples), len(other.resamples))
        differences = self.resamples[:size] - other.resamples[:size]
        return Estimate(self.value - other.value, differences, self.count)

    @property
    def p_value(self) -> float:
        """Of no difference, two-sided: twice the share of resamples beyond 0, at least 2 / 1001.

        Source: Davison, Hinkley 1997, "Bootstrap Methods", section 4.2 (the 1 that is added).
        """
        known = self.resamples[~np.isnan(self.resamples)]
        if not len(known):
            return math.nan
        beyond = min(np.sum(known <= 0), np.sum(known >= 0))
        return min(1.0, 2 * (1 + int(beyond)) / (1 + len(known)))


def summed(
    values: NDArray, documents: NDArray[np.int64], num_documents: int
) -> NDArray[np.float64]:
    """Sum over each document of the values [n] of items, added up in their order."""
    return np.bincount(documents, values, num_documents).astype(np.float64)


def estimates(ratios: Mapping[_Key, Ratio]) -> dict[_Key, Estimate]:
    """Each mean over all documents, and over resamples of them that are the same for all.

    Args:
        ratios: all over the same D documents.
    """
    if not ratios:
        return {}
    sums = np.stack([part for ratio in ratios.values() for part in ratio], axis=1)
    totals = np.zeros((1 + NUM_RESAMPLES, sums.shape[1]))
    totals[0] = sums.sum(axis=0)
    _resample(np.ascontiguousarray(sums, np.float64), fold_seed(_SEED), totals[1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = totals[:, 0::2] / totals[:, 1::2]
    found = {}
    for column, (key, ratio) in enumerate(ratios.items()):
        num_documents = np.count_nonzero(ratio.denominator)
        resamples = means[1:, column] if num_documents > 1 else means[:0, column]
        found[key] = Estimate(float(means[0, column]), resamples, float(totals[0, 2 * column + 1]))
    return found


@compiled
def _resample(sums, seed, totals):
    """Add up rows of `sums` [D, K], D of them drawn with replacement, for each row of `totals`."""
    num_documents, num_columns = sums.shape
    stream = np.empty(2, np.uint64)
    for first in range(0, len(totals), _AT_ONCE):
        part = totals[first : first + _AT_ONCE]
        counts = np.zeros((len(part), num_documents), np.int32)
        for number in range(len(part)):
            start_stream(stream, seed, BOOTSTRAP, 0, first + number)
            for _ in range(num_documents):
                counts[number, next_index(stream, num_documents)] += 1
        for document in range(num_documents):
            for number in range(len(part)):
                count = counts[number, document]
                if count > 0:
                    for column in range(num_columns):
                        part[number, column] += count * sums[document, column]
