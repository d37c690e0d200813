"""Losses that runs of our own have had: looked up, never guessed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ds_bert.files import parse_json

# Of a checkout; an installed package has none, and knows none.
RESULTS = Path(__file__).parents[2] / "benchmarks/results/predictions_cpu.json"
_ALIKE = 1.1  # of two vocabularies whose losses may be compared


class Expected(NamedTuple):
    """Masked-LM losses of recorded runs at a number of tokens, in nats."""

    lowest: float
    highest: float
    runs: int


def recorded_runs(path: Path = RESULTS) -> list[dict[str, Any]]:
    """Rows with layers, hidden_size, vocab_size and losses, pairs of tokens and loss."""
    try:
        rows = parse_json(path.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [row for row in rows if row.get("losses")]


def expected_loss(
    runs: Iterable[dict[str, Any]], layers: int, hidden_size: int, vocab_size: int, tokens: float
) -> Expected | None:
    """Of runs of this shape, linear between two rows of a log; None where none went so far."""
    found = []
    for run in runs:
        seen, losses = zip(*run["losses"], strict=True)
        same = (run["layers"], run["hidden_size"]) == (layers, hidden_size)
        ratio = max(run["vocab_size"], vocab_size) / min(run["vocab_size"], vocab_size)
        if same and ratio <= _ALIKE and seen[0] <= tokens <= seen[-1]:
            found.append(float(np.interp(np.log(tokens), np.log(seen), losses)))
    return Expected(min(found), max(found), len(found)) if found else None
