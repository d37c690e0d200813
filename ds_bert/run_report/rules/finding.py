"""What rules of the diagnosis return, and what they ask rows of a log."""

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

from ds_bert.run_report.history import Row

_Item = TypeVar("_Item")


class Severity(IntEnum):
    """How bad a finding is."""

    NOTE = 1  # worth knowing
    WARNING = 2  # costs quality or time
    PROBLEM = 3  # the run is not worth going on with as it is


class Finding(NamedTuple):
    """Something that is wrong with a run.

    Attributes:
        severity: how bad it is.
        title: what is wrong, in a few words.
        found: what was measured.
        expected: what a healthy run has.
        cure: what to do.
    """

    severity: Severity
    title: str
    found: str
    expected: str
    cure: str


def values(rows: Sequence[Row], name: str) -> list[float]:
    """A field of all rows that have it as a finite number."""
    found: list[Any] = [row.get(name) for row in rows]
    return [float(v) for v in found if isinstance(v, int | float) and math.isfinite(v)]


def mean(numbers: Sequence[float]) -> float | None:
    """None of nothing."""
    return sum(numbers) / len(numbers) if numbers else None


def last_part(rows: Sequence[_Item], share: float) -> Sequence[_Item]:
    """The last share of rows, one at least if there is one."""
    return rows[-max(1, math.ceil(len(rows) * share)) :]


def median(numbers: Sequence[float]) -> float:
    """The middle one, or the lower of two in the middle."""
    return sorted(numbers)[(len(numbers) - 1) // 2]
