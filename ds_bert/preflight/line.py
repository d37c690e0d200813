"""The outcome of a check as one line."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ds_bert.preflight.compare import majority, names, odd_ones

OK, WARN, BAD, SKIP = "ok", "warn", "BAD", "skip"


@dataclass(frozen=True)
class Line:
    """One check.

    Attributes:
        state: OK; WARN: the run would go, slower or with less warning of trouble; BAD: it would
            fail; SKIP: could not be checked here.
        name: of the check.
        text: what was found; of a BAD one the hosts at fault and what to do.
    """

    state: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<5}{self.name:<15} {self.text}"


def by_faults(name: str, faults: Mapping[str, str], good: str, advice: str) -> Line:
    """BAD with what is wrong by host, or OK.

    Args:
        name: of the check.
        faults: by host; "" for none.
        good: what to say if nobody has one.
        advice: what to do otherwise.
    """
    found: dict[str, list[str]] = {}
    for host, fault in faults.items():
        if fault:
            found.setdefault(fault, []).append(host)
    if not found:
        return Line(OK, name, good)
    text = "; ".join(f"{names(hosts)}: {fault}" for fault, hosts in found.items())
    return Line(BAD, name, f"{text}; {advice}")


def difference(values: Mapping[str, Any], what: str = "") -> str:
    """Who has another value than most: "host7: torch 2.10.0, others 2.13.0"; "" if nobody."""
    odd = odd_ones(values)
    if not odd:
        return ""
    usual = majority(list(values.values()))
    groups: dict[Any, list[str]] = {}
    for host, value in odd.items():
        groups.setdefault(value, []).append(host)
    found = ", ".join(f"{names(hosts)}: {what}{value}" for value, hosts in groups.items())
    with_usual = [host for host, value in values.items() if value == usual]
    others = with_usual[0] if len(with_usual) == 1 else "others"
    return f"{found}, {others} {usual}"
