"""Where a model is good and where it is not: its figures over parts of the items."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.store import InstanceTable, token_counts
from ds_bert.evaluation.bootstrap import Estimate, estimates
from ds_bert.evaluation.items import Items
from ds_bert.instances.examples import RELATIONS
from ds_bert.model.batch import MASKED_TOKENS, SEQUENCES

_PER_MILLION = (10_000, 1_000, 100, 10)  # borders between classes of token frequency
_MAX_TOKENS = 1 << 27  # of the data set, to count frequencies in
_PIECES = ("a word of one token", "first token of a longer word", "##, goes on with a word")


class Slicing(NamedTuple):
    """Items divided into classes.

    Attributes:
        names: of the classes, in words.
        classes: number of the class of each item, [M] of masked tokens or [N] of sequences, by what
            the items are.
    """

    names: list[str]
    classes: dict[str, NDArray[np.int64]]


def slicings(items: Items) -> dict[str, Slicing]:
    """The ways to divide items, by name; docs/evaluation.md describes them."""
    tokens, sequences, table = items.tokens, items.sequences, items.table
    frequencies = tokens_per_million(table)[tokens["label"]]
    is_continuation = table.store.vocabulary.is_continuation[tokens["label"]]
    found = {
        "frequency": Slicing(
            _frequency_names(),
            {MASKED_TOKENS: np.sum(frequencies < np.array(_PER_MILLION)[:, None], axis=0)},
        ),
        "piece": Slicing(
            list(_PIECES), {MASKED_TOKENS: np.where(is_continuation, 2, tokens["goes_on"])}
        ),
        "position": _by_size(MASKED_TOKENS, tokens["position"], first=0),
        "length": _by_size(SEQUENCES, sequences["length"], first=1),
    }
    length = found["length"].classes
    length[MASKED_TOKENS] = length[SEQUENCES][items.owners[MASKED_TOKENS]]
    if table.options.has_pairs:
        relations = list(RELATIONS[table.options.objective])
        found["relation"] = Slicing(relations, {SEQUENCES: sequences["label"]})
    return found


def slice_figures(items: Items) -> dict[str, list[dict[str, Any]]]:
    """Losses and accuracies of the classes that have items, with intervals, by name of the slicing.

    Returns:
        of each class "slice", its name; NAME_loss and NAME_accuracy, each with NAME_..._interval;
        "num_masked_tokens" or "num_sequences", or both.
    """
    ratios, ways = {}, slicings(items)
    for way, (names, classes) in ways.items():
        for number, name in enumerate(names):
            chosen = {of: values == number for of, values in classes.items()}
            for figure, ratio in items.ratios(chosen).items():
                if ratio.denominator.any():
                    ratios[way, name, figure] = ratio
    found: dict[str, dict[str, dict[str, Any]]] = {way: {} for way in ways}
    for (way, name, figure), estimate in estimates(ratios).items():
        row = found[way].setdefault(name, {"slice": name})
        count = items.counts[figure.rpartition("_")[0]]
        row |= {f"num_{count}": int(estimate.count), **as_fields(figure, estimate)}
    return {way: list(rows.values()) for way, rows in found.items() if rows}


def as_fields(name: str, estimate: Estimate) -> dict[str, Any]:
    """A figure and its interval as they stand in a report."""
    return {name: estimate.value, f"{name}_interval": estimate.interval}


def tokens_per_million(table: InstanceTable) -> NDArray[np.float64]:
    """How often each entry of the vocabulary stands in a million tokens of the evaluated data."""
    counts = token_counts(table.store, _MAX_TOKENS)
    return counts * 1e6 / max(1, counts.sum())


def _frequency_names() -> list[str]:
    between = zip(_PER_MILLION[1:], _PER_MILLION, strict=False)
    return [
        f"{_PER_MILLION[0]:,} or more of a million",
        *(f"{low:,} to {high:,}" for low, high in between),
        f"below {_PER_MILLION[-1]:,}",
    ]


def _by_size(of: str, sizes: NDArray[np.int64], first: int) -> Slicing:
    """Classes of 16, 16, 32, 64, ... sizes, from `first` on."""
    classes = np.maximum(np.frexp(sizes - first)[1] - 4, 0).astype(np.int64)
    bounds = [0, *(16 << number for number in range(int(classes.max(initial=0)) + 1))]
    names = [f"{first + low} to {first + high - 1}" for low, high in pairwise(bounds)]
    return Slicing(names, {of: classes})
