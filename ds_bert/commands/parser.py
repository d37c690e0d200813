"""What the parsers of the commands share: the description, flags from the fields of a dataclass."""

import dataclasses
import re
import sys
import typing
from argparse import (
    SUPPRESS,
    Action,
    ArgumentParser,
    BooleanOptionalAction,
    Namespace,
    RawDescriptionHelpFormatter,
    _StoreTrueAction,
)
from collections.abc import Sequence
from itertools import chain
from types import NoneType, UnionType
from typing import Any

from ds_bert.dialects.flags import boolean, is_boolean

SCRIPT = re.compile(r"(python )?(?:scripts|ds_bert)/(\w+)\.py")  # in docstrings of commands


class Parser(ArgumentParser):
    """argparse's, but a switch takes a value too: --x, --x=True, --x=0, --x false, --no_x, --no-x.

    A value after a space belongs to a switch only where the command has no positional argument,
    which it could be as well.
    """

    @property
    def flags(self) -> list[str]:
        """All flags, with their dashes."""
        return list(self._option_string_actions)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; `parse_args` calls it."""
        words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._without_values(words), namespace)

    def _without_values(self, words: list[str]) -> list[str]:
        """The command line with each switch as argparse knows it; the last of a name counts."""
        may_follow = all(action.option_strings for action in self._actions)
        result: list[str] = []
        while words:
            name, equals, value = words[0].partition("=")
            flag, is_on = self._switch(name)
            if flag is None or (equals and not is_boolean(value)):
                result.append(words.pop(0))
                continue
            words.pop(0)
            if not equals and may_follow and words and is_boolean(words[0]):
                value = words.pop(0)
            if value:
                is_on = is_on == boolean(value)
            result = [word for word in result if word not in _spellings(flag)]
            if is_on or f"--no-{flag[2:]}" in self.flags:
                result.append(flag if is_on else f"--no-{flag[2:]}")
        return result

    def _switch(self, name: str) -> tuple[str | None, bool]:
        """The switch that a word names, and whether it is switched on by it."""
        kinds = (BooleanOptionalAction, _StoreTrueAction)
        for start, is_on in (("--", True), ("--no_", False), ("--no-", False)):
            flag = f"--{name.removeprefix(start)}"
            if name.startswith(start) and isinstance(self._option_string_actions.get(flag), kinds):
                return flag, is_on
        return None, True


def _spellings(flag: str) -> tuple[str, ...]:
    return flag, f"--no_{flag[2:]}", f"--no-{flag[2:]}"


def new_parser(doc: str | None, prog: str | None) -> Parser:
    """An empty parser.

    Args:
        doc: the command's docstring, whose examples call its script.
        prog: how the user called it, if not by its script: such as "ds-bert preprocess".
    """
    doc = called(doc or "", prog)
    return Parser(prog, description=doc, formatter_class=RawDescriptionHelpFormatter)


def called(doc: str, prog: str | None) -> str:
    """A docstring as it is right for who has called `prog`: without paths of scripts."""
    if prog is None:
        return doc
    return SCRIPT.sub(lambda found: prog if found[1] else f"ds-bert {found[2]}", doc)


def add_flags(parser: ArgumentParser, options: type) -> None:
    """Add a flag for each field of a dataclass that `config.option` declared, in their order.

    HfArgumentParser does this for TrainingConfig, but importing it takes a second. A flag that is
    not given is absent from the result of `parse_args`: its default is the dataclass's own.

    Args:
        parser: gets the flags, in groups by the title `group` of the fields.
        options: the dataclass. `{default}` in a help text is the field's default.
    """
    annotations = typing.get_type_hints(options)
    groups: dict[str, Any] = {}
    for item in dataclasses.fields(options):
        if "help" in item.metadata:
            title = item.metadata["group"]
            if title not in groups:
                groups[title] = parser.add_argument_group(title)
            _add_flag(groups[title], item, annotations[item.name])


def _add_flag(group: Any, item: "dataclasses.Field[Any]", annotation: Any) -> None:
    default = item.default
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    flag = {"default": SUPPRESS, **_by_type(annotation, default), **item.metadata}
    flag["help"] = flag["help"].format(default=shown)
    del flag["group"]
    group.add_argument(f"--{item.name}", *flag.pop("aliases", ()), **flag)
    if flag.get("action") is BooleanOptionalAction:
        add_negation(group, item.name)


def _by_type(annotation: Any, default: Any) -> dict[str, Any]:
    """What `add_argument` is told because of a field's type."""
    if isinstance(annotation, UnionType):  # `int | None`
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not NoneType)
    if annotation is bool:
        return {"action": "store_true", "default": default}
    if typing.get_origin(annotation) is not Sequence:
        return {"type": annotation}
    is_number = typing.get_args(annotation) == (int,)
    return {"nargs": "+"} | ({"type": numbers, "action": _Joined} if is_number else {})


def add_negation(group: Any, name: str) -> None:
    """Also take --no_NAME, as HfArgumentParser does; BooleanOptionalAction makes --no-NAME."""
    group.add_argument(
        f"--no_{name}", dest=name, action="store_false", default=SUPPRESS, help=SUPPRESS
    )


def numbers(text: str) -> list[int]:
    """Integers of a comma list."""
    return [int(number) for number in text.split(",") if number]


class _Joined(Action):
    """Several comma lists as one list."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None
    ) -> None:
        setattr(namespace, self.dest, list(chain(*values)))
