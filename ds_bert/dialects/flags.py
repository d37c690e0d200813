"""What is known about a flag of another system, and what its users are told about it."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ds_bert.errors import ConfigurationError

OBEYED, ANSWERED, REFUSED = "obeyed", "answered", "refused"
_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "on"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "off"), False),
}


@dataclass(frozen=True)
class Flag:
    """One flag of a script.

    Attributes:
        name: without dashes, words joined by "_".
        kind: makes a value of a word of the command line; raises ValueError.
        default: of that script.
        status: OBEYED, ANSWERED (it changes nothing, and the user is told why) or REFUSED.
        text: obeyed: what it sets here; answered and refused: what it does there, and what does
            that here.
        many: it takes a list of values.
        harmless: values of a refused flag that ask for nothing.
        aliases: other names.
    """

    name: str
    kind: Callable[[str], Any]
    default: Any
    status: str
    text: str
    many: bool = False
    harmless: tuple[Any, ...] = ()
    aliases: tuple[str, ...] = ()


def obeyed(name: str, kind: Callable[[str], Any], default: Any, text: str, **more: Any) -> Flag:
    """A flag that does here what it does there."""
    return Flag(name, kind, default, OBEYED, text, **more)


def answered(name: str, kind: Callable[[str], Any], default: Any, text: str, **more: Any) -> Flag:
    """A flag that sets nothing here: what is trained is the same without it."""
    return Flag(name, kind, default, ANSWERED, text, **more)


def refused(name: str, kind: Callable[[str], Any], default: Any, text: str, **more: Any) -> Flag:
    """A flag whose effect cannot be had here; its default and `harmless` values pass."""
    return Flag(name, kind, default, REFUSED, text, **more)


def table(*flags: Flag) -> dict[str, Flag]:
    """The flags of a script by name and alias."""
    return {name: flag for flag in flags for name in (flag.name, *flag.aliases)}


class Given(Mapping[str, Any]):
    """The flags of a command line; what is not given has the script's default.

    Attributes:
        explicit: names of the flags that were given.
    """

    def __init__(
        self,
        flags: Mapping[str, Flag],
        values: Mapping[str, Any],
        explicit: Collection[str] | None = None,
    ):
        """Take a script's flags and values by name.

        Args:
            flags: of the script.
            values: other than the defaults.
            explicit: which were given; None: all of these.
        """
        self._values = {flag.name: flag.default for flag in flags.values()} | dict(values)
        self.explicit = frozenset(values if explicit is None else explicit)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def boolean(word: str) -> bool:
    """True or false in any spelling that the scripts take."""
    if word.lower() not in _BOOLEANS:
        raise ValueError
    return _BOOLEANS[word.lower()]


def is_boolean(word: str) -> bool:
    """Whether a word is one of those spellings."""
    return word.lower() in _BOOLEANS


def whole(word: str) -> int:
    """A whole number, also as 1e5 or 1000.0."""
    number = float(word)
    if number != int(number):
        raise ValueError
    return int(number)


_KINDS = {boolean: "true or false", whole: "a whole number", int: "a whole number"}


def convert(flag: Flag, words: list[str]) -> Any:
    """The value of a flag from the words after it.

    Raises:
        ConfigurationError: they are none, or not of its kind.
    """
    try:
        values = [flag.kind(word) for word in words]
    except ValueError:
        expected = _KINDS.get(flag.kind, "a number")
        raise ConfigurationError(
            f"--{flag.name}: found {' '.join(words)!r}, expected {expected}"
        ) from None
    if not values:
        raise ConfigurationError(f"--{flag.name}: no value is given; expected one")
    return values if flag.many else values[0]
