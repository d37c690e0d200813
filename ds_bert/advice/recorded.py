"""Losses that runs of our own have had: looked up, never guessed."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

_ALIKE = 1.1  # of two vocabularies whose losses may be compared


class Expected(NamedTuple):
    """Masked-LM losses of recorded runs at a number of tokens, in nats."""

    lowest: float
    highest: float
    runs: int


def expected_loss(
    runs: Iterable[dict[str, Any]], layers: int, hidden_size: int, vocab_size: int, tokens: float
) -> Expected | None:
    """Of runs of this shape, linear between two rows of a log; None where none went so far."""
    found = []
    for run in runs:
        seen, losses = run["tokens"], run["mlm_loss"]
        same = (run["num_hidden_layers"], run["hidden_size"]) == (layers, hidden_size)
        ratio = max(run["vocab_size"], vocab_size) / min(run["vocab_size"], vocab_size)
        if same and ratio <= _ALIKE and seen[0] <= tokens <= seen[-1]:
            found.append(float(np.interp(np.log(tokens), np.log(seen), losses)))
    return Expected(min(found), max(found), len(found)) if found else None
