"""Hides all packages but the needed ones, so that a check notices one that the list lacks.

As the module sitecustomize, which Python imports when it starts, it hides what HIDDEN names.
"""

import os
import re
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

LISTED = "HIDDEN"  # names of packages, in the environment


def hidden(needed: set[str], complete: set[str]) -> set[str]:
    """Names of installed packages that are none of the needed ones.

    Args:
        needed: names of wheels.
        complete: those of them that come with all that their metadata ask for.
    """
    from importlib.metadata import packages_distributions

    allowed = {_normal(name) for name in needed} | _closure(complete)
    return {
        package
        for package, wheels in packages_distributions().items()
        if not allowed.intersection(map(_normal, wheels)) and not package.startswith("_")
    }


def _closure(names: set[str]) -> set[str]:
    """Wheels, and what they and their needs require here."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    found: set[str] = set()
    left = {_normal(name) for name in names}
    while left:
        name = left.pop()
        found.add(name)
        try:
            needs = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        wanted = (need for need in needs if not need.marker or need.marker.evaluate({"extra": ""}))
        left |= {_normal(need.name) for need in wanted} - found
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def hide(names: set[str]) -> None:
    """Let Python find these packages nowhere, as if they were not installed."""
    find = PathFinder.find_spec

    def find_others(
        finder: type,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        return None if name.partition(".")[0] in names else find(name, path, target)

    PathFinder.find_spec = classmethod(find_others)  # type: ignore[method-assign]


if __name__ == "sitecustomize":
    hide(set(os.environ.get(LISTED, "").split()))
