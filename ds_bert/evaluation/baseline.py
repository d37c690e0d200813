"""What can be guessed of two segments without reading them: from lengths and shared tokens.

A model whose next-sentence accuracy is not above this baseline need not have learned anything about
text. Where lengths alone tell nearly all, the data give the task away: a document's last pair, for
example, is short, and its B is more often random.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
from ds_bert.dataset.store import InstanceTable
from ds_bert.evaluation.bootstrap import Ratio, estimates, summed
from ds_bert.evaluation.items import Items
from ds_bert.evaluation.slices import as_fields, tokens_per_million
from ds_bert.model.batch import SEQUENCES

_PENALTY = 1e-3  # of squared weights, per sequence: keeps them finite where classes are separable
_STEPS = 25
MIN_DOCUMENTS = 4


def baseline_figures(items: Items) -> dict[str, Any]:
    """Accuracy of logistic regressions on the task of pairs, and how far above it the model is.

    Each half of the documents is judged by a regression on the other half.

    Returns:
        NAME_baseline for the loss NAME of pairs: "share_of_larger_class"; "length_accuracy", from
        the lengths of both segments; "length_and_overlap_accuracy", from shared tokens as well;
        "gain", the model's accuracy minus the better of the two, each with an interval, and the
        gain's p_value. Nothing without such a loss or with fewer than MIN_DOCUMENTS documents.
    """
    name = next((name for name, of in items.counts.items() if of == SEQUENCES), None)
    if name is None or items.num_documents < MIN_DOCUMENTS:
        return {}
    rows, labels = items.sequences["row"], items.sequences["label"]
    lengths = length_features(items.table, rows)
    overlap = np.hstack([lengths, overlap_features(items.table, rows)])
    guesses = {
        "length": cross_fitted(lengths, labels, items.documents),
        "length_and_overlap": cross_fitted(overlap, labels, items.documents),
    }
    ratios = {key: _accuracy(items, guess == labels) for key, guess in guesses.items()}
    found = estimates({**ratios, "model": _accuracy(items, items.correct[name])})
    best = max(guesses, key=lambda key: found[key].value)
    gain = found["model"].minus(found[best])
    share = float(labels.mean())
    result: dict[str, Any] = {"share_of_larger_class": max(share, 1 - share)}
    for key in guesses:
        result |= as_fields(f"{key}_accuracy", found[key])
    return {f"{name}_baseline": result | as_fields("gain", gain) | {"gain_p_value": gain.p_value}}


def _accuracy(items: Items, correct: NDArray[np.bool_]) -> Ratio:
    documents = items.documents
    numbers = np.bincount(documents).astype(np.float64)
    return Ratio(summed(correct, documents, len(numbers)), numbers)


def length_features(table: InstanceTable, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each row the lengths of A and B, their sum and whether it is the largest; [N, 9].

    Squares, products and logarithms let a linear model draw borders that are no straight lines.
    """
    a = table.rows["a_length"][rows].astype(np.float64)
    b = table.rows["b_length"][rows].astype(np.float64)
    is_full = a + b >= table.options.max_num_tokens
    return np.stack(
        [a, b, np.log(a), np.log(b), a * a, b * b, a * b, np.log(a + b), is_full], axis=1
    )


def overlap_features(table: InstanceTable, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each row the share of B's tokens that stand in A, and of A's in B; [N, 4] with rare ones.

    The last two columns weigh a token by the logarithm of its rarity, so "the" counts for little.
    """
    weights = np.log(1e6) - np.log(np.maximum(tokens_per_million(table), 1e-3))
    found = np.empty((len(rows), 4))
    _overlaps(table.store.tokens, table.rows[rows], weights, found)
    return found


@compiled
def _overlaps(tokens, rows, weights, found):
    # Rows and tokens were checked when they were evaluated.
    places = np.full((2, len(weights)), -1, np.int64)  # the row where a token stood last in A, in B
    for number in range(len(rows)):
        row = rows[number]
        a = tokens[np.int64(row.a_start) : np.int64(row.a_start) + np.int64(row.a_length)]
        b = tokens[np.int64(row.b_start) : np.int64(row.b_start) + np.int64(row.b_length)]
        for token in a:
            places[0, token] = number
        for token in b:
            places[1, token] = number
        found[number, 0], found[number, 2] = _share(b, places[0], number, weights)
        found[number, 1], found[number, 3] = _share(a, places[1], number, weights)


@compiled
def _share(segment, places, number, weights):
    """Share of a segment's tokens that are in the other one, plain and weighted."""
    shared, shared_weight, weight = 0, 0.0, 0.0
    for token in segment:
        weight += weights[token]
        if places[token] == number:
            shared += 1
            shared_weight += weights[token]
    return shared / len(segment), shared_weight / max(weight, 1e-9)


def cross_fitted(
    features: NDArray[np.float64], labels: NDArray[np.int64], documents: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Guesses of labels 0 or 1 for each half of the documents by a regression on the other half.

    Args:
        features: [N, F].
        labels: [N], 0 or 1.
        documents: [N]; those of even and of odd numbers are the halves.
    """
    guesses = np.zeros(len(labels), bool)
    for half in (0, 1):
        mine = documents % 2 == half
        mean, scale = features[~mine].mean(axis=0), features[~mine].std(axis=0)
        standard = np.hstack([(features - mean) / np.maximum(scale, 1e-9), np.ones((len(mine), 1))])
        weights = logistic_regression(standard[~mine], labels[~mine])
        guesses[mine] = standard[mine] @ weights > 0
    return guesses


def logistic_regression(
    features: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Weights [F] of the most likely logistic model with a small quadratic penalty.

    Source: Hastie, Tibshirani, Friedman 2009, "The Elements of Statistical Learning", section 4.4.1
    (Newton's method).
    """
    weights = np.zeros(features.shape[1])
    penalty = _PENALTY * len(labels) * np.eye(len(weights))
    for _ in range(_STEPS):
        shares = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        slope = features.T @ (labels - shares) - penalty @ weights
        curvature = (features * (shares * (1 - shares))[:, None]).T @ features + penalty
        step = np.linalg.solve(curvature, slope)
        weights = weights + step
        if np.abs(step).max() < 1e-8:
            break
    return weights
