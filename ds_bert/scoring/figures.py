"""Accuracy and macro F1 of guessed classes, over seeds, with intervals over test examples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ds_bert.evaluation.bootstrap import Estimate, Ratio, estimates, summed

OUTSIDE = "O"  # the tag of words that are part of nothing
FIGURES = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class Truth:
    """What is right.

    Attributes:
        classes: their names.
        labels: int64 [n], the class of each item.
        examples: int64 [n], which example each item is of, from 0 on.
    """

    classes: list[str]
    labels: NDArray[np.int64]
    examples: NDArray[np.int64]

    @property
    def num_examples(self) -> int:
        """Number of test examples."""
        return int(self.examples[-1]) + 1

    @property
    def scored(self) -> list[int]:
        """Classes that macro F1 is over: all, but for OUTSIDE."""
        return [number for number, name in enumerate(self.classes) if name != OUTSIDE]

    def sums(self, values: NDArray) -> NDArray[np.float64]:
        """Over each example, of the values [n] of items."""
        return summed(values, self.examples, self.num_examples)


def figures(truth: Truth, guesses: Sequence[NDArray[np.int64]]) -> dict[str, Estimate]:
    """Both figures, as the mean over seeds; resamples draw examples, the same for all models.

    F1 of a class is 2 TP / (its items + guesses of it); macro F1 is its mean over the classes that
    are found among items or guesses, as in scikit-learn.

    Args:
        truth: of the items.
        guesses: int64 [n] of each seed.
    """
    ones = np.ones(truth.num_examples)
    correct = np.mean([guess == truth.labels for guess in guesses], axis=0)
    ratios: dict[Any, Ratio] = {
        "accuracy": Ratio(truth.sums(correct), truth.sums(np.ones(len(correct))))
    }
    for seed, guess in enumerate(guesses):
        for number in truth.scored:
            is_it, is_guessed = truth.labels == number, guess == number
            both = truth.sums(2.0 * (is_it & is_guessed))
            ratios[seed, number, "both"] = Ratio(both, ones)
            ratios[seed, number, "all"] = Ratio(truth.sums(1.0 * is_it + is_guessed), ones)
    found = estimates(ratios)
    macro = [_macro_f1(found, seed, truth.scored) for seed in range(len(guesses))]
    mean = np.mean(macro, axis=0)
    return {"accuracy": found["accuracy"], "macro_f1": Estimate(float(mean[0]), mean[1:])}


def _macro_f1(found: dict[Any, Estimate], seed: int, classes: Sequence[int]) -> NDArray[np.float64]:
    """Of all examples, then of each resample; NaN where there is no class at all."""

    def values(what: str) -> NDArray[np.float64]:
        parts = (found[seed, number, what] for number in classes)
        return np.array([[part.value, *part.resamples] for part in parts])

    both, every = values("both"), values("all")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum(both / every, axis=0) / np.sum(every > 0, axis=0)


def figures_of_one(truth: Truth, guess: NDArray[np.int64]) -> dict[str, float]:
    """Both figures of one seed, without resamples."""
    size = len(truth.classes)
    both = np.bincount(truth.labels[guess == truth.labels], minlength=size)
    every = np.bincount(truth.labels, minlength=size) + np.bincount(guess, minlength=size)
    there = [number for number in truth.scored if every[number]]
    macro = float(np.mean(2 * both[there] / every[there])) if there else math.nan
    return {"accuracy": float(np.mean(guess == truth.labels)), "macro_f1": macro}
