"""Rows of metrics.jsonl as trackers take them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ds_bert.files import parse_json

_KINDS = ("train", "validation")
_NO_VALUES = ("kind", "step", "time", "started")


def values_of(kind: str, row: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a row by their names: those of the row after its kind and a slash.

    Numbers inside of an object are named `kind/object/number`. Rows of other kinds have none.
    """
    if kind not in _KINDS:
        return {}
    return dict(_numbers(kind, {k: v for k, v in row.items() if k not in _NO_VALUES}))


def _numbers(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(f"{prefix}/{name}", value)
        elif not isinstance(value, int | float) or isinstance(value, bool):
            continue
        elif math.isfinite(value):
            yield f"{prefix}/{name}", float(value)


def written(path: Path, after: int, to: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Steps and values of the rows of a metrics.jsonl, from behind one step to another."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = parse_json(line)
                kind, step = row["kind"], row["step"]
            except (ValueError, KeyError, TypeError):
                continue
            if after < step <= to:
                yield step, values_of(kind, row)
