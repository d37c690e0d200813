"""Several corpora on one command line: NAME=INPUT[,INPUT ...][:WEIGHT]."""

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ds_bert.errors import ConfigurationError

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)")
_WEIGHTED = re.compile(r"(.+):(\d+(?:\.\d+)?)")
_HUB = "hf:"
_HUB_FIELDS = 4  # hf:OWNER/NAME:CONFIG:SPLIT; what comes after these is a weight


class Group(NamedTuple):
    """The inputs of one corpus, as the user names them.

    Attributes:
        name: of the corpus; empty where the text is not divided into corpora.
        patterns: files, globs, folders, ids, addresses.
        weight: see `ds_bert.instances.mixture`; None: not given.
    """

    name: str
    patterns: list[str]
    weight: float | None = None


def parse_groups(arguments: Sequence[str]) -> list[Group]:
    """The corpora of some arguments, each a comma list.

    An item NAME=INPUT begins a corpus, the items behind it in the same argument belong to it, and
    the last one may end in :WEIGHT. Something that exists under such a name is no corpus.

    Returns:
        the corpora in the order given; without names one that has all.

    Raises:
        ConfigurationError: only some have a name, or two have the same.
    """
    groups: list[Group] = []
    unnamed: list[str] = []
    for argument in arguments:
        current = unnamed
        for item in filter(None, map(str.strip, argument.split(","))):
            named = _NAMED.fullmatch(item)
            if named and not _exists(item):
                groups.append(Group(named[1], current := [named[2]]))
            else:
                current.append(item)
    if groups and unnamed:
        raise ConfigurationError(
            f"--input_file {unnamed[0]} has no name, {groups[0].name}=... has one; expected "
            "NAME=INPUT[,INPUT ...][:WEIGHT] for each corpus, or no names"
        )
    for twice in _repeated(group.name for group in groups):
        raise ConfigurationError(
            f"--input_file names corpus {twice} twice; give its inputs as one comma list, "
            f"{twice}=A,B"
        )
    return [_with_weight(group) for group in groups] or [Group("", unnamed)]


def _exists(item: str) -> bool:
    """Whether something is there under this very name, as for a folder called language=en."""
    return Path(item).exists() or (glob.has_magic(item) and any(glob.iglob(item)))


def _repeated(names: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


def _with_weight(group: Group) -> Group:
    *others, last = group.patterns
    weighted = _WEIGHTED.fullmatch(last)
    is_hub = last.startswith(_HUB) and not last.startswith(f"{_HUB}//")
    if not weighted or (is_hub and last.count(":") < _HUB_FIELDS):
        return group
    return Group(group.name, [*others, weighted[1]], float(weighted[2]))
