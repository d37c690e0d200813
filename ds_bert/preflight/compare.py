"""Who differs from most."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_NAMED = 4  # hosts in a line


def majority(values: Sequence[Any]) -> Any:
    """What most have; in a tie, the value that comes first."""
    return Counter(values).most_common(1)[0][0]


def odd_ones(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those who have not what most have, with what they have."""
    usual = majority(list(values.values()))
    return {name: value for name, value in values.items() if value != usual}


def names(found: Sequence[str]) -> str:
    """A list of hosts for a person, short for many."""
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more
