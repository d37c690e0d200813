"""Flags from the fields of a dataclass, and the command line of preprocessing made of them."""

import argparse
import dataclasses
from collections.abc import Sequence

import pytest

from ds_bert.commands import preprocess
from ds_bert.commands.parser import add_flags, new_parser
from ds_bert.config import option
from ds_bert.preprocessing.options import PreprocessOptions


@dataclasses.dataclass
class Options:
    """One field of each kind."""

    path: str = option("here", "default {default}", aliases=["--place"], group="a", metavar="P")
    share: float | None = option(None, "none", group="a")
    kind: str = option("x", "default {default}", group="b", choices=("x", "y"))
    names: Sequence[str] = option(("n",), "default {default}", group="b")
    lengths: Sequence[int] = option((1, 2), "default {default}", group="b")
    fast: bool = option(False, "fast", group="a")
    lower: bool = option(True, "lower", group="b", action=argparse.BooleanOptionalAction)
    internal: int = 7


@pytest.fixture
def parser():
    parser = new_parser("Do it.", None)
    add_flags(parser, Options)
    return parser


def parse(parser, *argv):
    return Options(**vars(parser.parse_args(argv)))


def test_without_flags_all_defaults_are_those_of_the_dataclass(parser):
    assert parse(parser) == Options()


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        ("--path there", "path", "there"),
        ("--place there", "path", "there"),
        ("--share 0.5", "share", 0.5),
        ("--kind y", "kind", "y"),
        ("--names a,b c", "names", ["a,b", "c"]),
        ("--lengths 3", "lengths", [3]),
        ("--lengths 3,4 5", "lengths", [3, 4, 5]),
        ("--fast", "fast", True),
        ("--no-lower", "lower", False),
        ("--no_lower", "lower", False),
        ("--no_lower --lower", "lower", True),
    ],
)
def test_each_kind_of_flag(parser, argv, name, value):
    assert parse(parser, *argv.split()) == dataclasses.replace(Options(), **{name: value})


@pytest.mark.parametrize("argv", ["--share half", "--kind z", "--lengths a", "--internal 8"])
def test_what_a_flag_does_not_take(parser, argv, capsys):
    with pytest.raises(SystemExit) as leaving:
        parser.parse_args(argv.split())
    assert leaving.value.code == 2
    assert argv.split()[0] in capsys.readouterr().err


def test_help(parser):
    text = parser.format_help()
    first, second = text[text.index("\na:") :].split("\nb:")
    assert "--path P, --place P" in first
    assert "default here" in first
    assert "{x,y}" in second
    assert "default 1 2" in second
    assert "--no_lower" not in text, "a hidden spelling"
    assert "internal" not in text


def test_every_option_of_preprocessing_is_a_flag():
    parser = new_parser(None, None)
    add_flags(parser, PreprocessOptions)
    flags = {action.dest for action in parser._actions} - {"help"}
    fields = {item.name for item in dataclasses.fields(PreprocessOptions)}
    assert fields - flags == {"block_bytes"}
    assert preprocess.parse([]) == PreprocessOptions()
