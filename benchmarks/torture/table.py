"""The table of faults, and what is known of each after it happened."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torture.scene import Scene


class Skip(Exception):
    """A fault cannot be injected on this machine; says why."""


@dataclass
class Row:
    """What became of one fault.

    Attributes:
        name: for --only.
        fault: in words.
        happened: what the run did and said, in a line.
        codes: exit code of the disturbed command, or of each of its ranks; "" if it went on.
        seconds: from the fault until all of its processes had ended.
        steps_lost: steps that were done and had to be done again; None: not a matter here.
        equal: whether what came out at last equals the undisturbed result bit for bit; None:
            nothing had to come out.
        verdict: "good", "BAD: why", or "skipped: why".
        took: seconds for the whole row.
    """

    name: str
    fault: str
    happened: str = ""
    codes: str = ""
    seconds: float | None = None
    steps_lost: int | None = None
    equal: bool | None = None
    verdict: str = "good"
    took: float = 0.0

    @property
    def is_bad(self) -> bool:
        """Whether a promise was broken."""
        return self.verdict.startswith("BAD")


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: topic and a few words, such as "kill.rank_1.saving".
        fault: in words, for the table.
        inject: does it all; raises Bad where something is not as promised, Skip where it cannot be
            done here.
        launches: about how many starts of a training run it takes; 0.2 for one of preprocess.py.
    """

    name: str
    fault: str
    inject: Callable[["Scene"], None]
    launches: float


FAULTS: list[Fault] = []


def fault(name: str, words: str, launches: float = 2.0) -> Callable:
    """Put a function into the table."""

    def add(inject: Callable[["Scene"], None]) -> Callable[["Scene"], None]:
        assert all(known.name != name for known in FAULTS), name
        FAULTS.append(Fault(name, words, inject, launches))
        return inject

    return add
