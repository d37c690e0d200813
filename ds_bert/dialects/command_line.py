"""A command line as flags and the words after each."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ds_bert.dialects.flags import Flag, Given, boolean, convert, is_boolean
from ds_bert.errors import ConfigurationError

_FLAG = re.compile(r"--?[A-Za-z]")  # -1 and -1e-3 are values


@dataclass(frozen=True)
class Item:
    """A flag as it stands on the command line.

    Attributes:
        written: with its dashes, without its value; "" for words before the first flag.
        words: what follows it.
        is_joined: the first word came after "=".
    """

    written: str
    words: list[str]
    is_joined: bool = False

    @property
    def name(self) -> str:
        """Without dashes in front, words joined by "_"."""
        return self.written.lstrip("-").replace("-", "_")

    @property
    def plain(self) -> list[str]:
        """The words of the command line again."""
        if self.is_joined:
            return [f"{self.written}={self.words[0]}", *self.words[1:]]
        return [self.written, *self.words] if self.written else self.words


def items(argv: Iterable[str]) -> list[Item]:
    """Cut a command line before each flag."""
    result = [Item("", [])]
    for word in argv:
        if not _FLAG.match(word):
            result[-1].words.append(word)
            continue
        written, equals, value = word.partition("=")
        result.append(Item(written, [value] if equals else [], bool(equals)))
    return result if result[0].words else result[1:]


def find(name: str, flags: Mapping[str, Flag]) -> tuple[Flag, bool] | None:
    """The flag of that name, and whether the name negates it (no_NAME, noNAME); None: unknown."""
    if name in flags:
        return flags[name], False
    for start in ("no_", "no"):
        flag = flags.get(name.removeprefix(start)) if name.startswith(start) else None
        if flag is not None and flag.kind is boolean:
            return flag, True
    return None


def read(argv: Iterable[str], flags: Mapping[str, Flag]) -> tuple[Given, list[str]]:
    """Read the flags of a script.

    Args:
        argv: a command line.
        flags: those of the script, by name and alias.

    Returns:
        what was given, and the rest: flags that are not the script's, with the words after them.

    Raises:
        ConfigurationError: a value is missing, or not of its flag's kind.
    """
    values, rest = {}, []
    for item in items(argv):
        found = find(item.name, flags)
        if found is None:
            rest += item.plain
            continue
        flag, is_negated = found
        words, more = _own_words(item, flag)
        if more:
            raise ConfigurationError(f"--{flag.name}: {more[0]!r} after its value belongs nowhere")
        value = convert(flag, words)
        values[flag.name] = not value if is_negated else value
    return Given(flags, values), rest


def _own_words(item: Item, flag: Flag) -> tuple[list[str], list[str]]:
    """The words that are a flag's value, and those left over."""
    if flag.kind is boolean and not flag.many:
        has_word = item.is_joined or (item.words and is_boolean(item.words[0]))
        return (item.words[:1], item.words[1:]) if has_word else (["true"], item.words)
    return (item.words, []) if flag.many else (item.words[:1], item.words[1:])


CHOICE = "coming_from"  # the flag that names a system


def foreign_names(argv: Iterable[str], own: Collection[str]) -> list[str]:
    """Names of the flags that are not a command's own, read as argparse reads flags.

    Args:
        argv: a command line.
        own: flags of the command, without dashes.
    """
    names = [item.name for item in items(argv) if item.written]
    return [name for name in names if not _is_own(name, own)]


def _is_own(name: str, own: Collection[str]) -> bool:
    """Whole, begun, or negated."""
    return name == "h" or name.removeprefix("no_") in own or any(f.startswith(name) for f in own)


def is_foreign(argv: Sequence[str], own: Collection[str]) -> bool:
    """Whether a command line is, or may be, written for another program."""
    is_arguments = len(argv) == 1 and argv[0].endswith(".json")  # as run_mlm.py takes them
    return is_arguments or bool(foreign_names(argv, own))


def with_values(argv: Iterable[str], switches: Collection[str]) -> list[str]:
    """A command line with --no_NAME and --no-NAME as --NAME=false, for the switches named."""
    result = []
    for word in argv:
        written, _, value = word.partition("=")
        name = written[len("--no_") :].replace("-", "_")
        is_negated = written.startswith(("--no_", "--no-")) and name in switches
        is_on = is_negated and is_boolean(value) and not boolean(value)
        result.append(f"--{name}={is_on}" if is_negated else word)
    return result
