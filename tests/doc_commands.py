"""The commands that the documentation names: found in its pages, and read by their own parsers."""

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ROOT

from ds_bert.commands import launch, preflight, train
from ds_bert.commands.main import COMMANDS
from ds_bert.dialects import translate as dialects

PROGRAMS = (
    *("ds-bert", "python", "deepspeed", "torchrun", "srun", "sbatch", "kubectl", "sky", "docker"),
    *("bash", ".", "pip", "git", "pytest", "head", "tensorboard"),
)
TRAIN = {"ds_bert/train.py", "ds_bert.train"}
PLACEHOLDERS = {"N": "2", "R": "seq128", "RECIPE": "seq128", "R.json": "seq128"}
PLACEHOLDERS |= {"my.json": "seq128", "my_512.json": "seq512"}  # written by a command before
PLACEHOLDERS |= {"TASK": "classification"}


class Command(NamedTuple):
    """One command of a page: its words as a shell passes them on."""

    page: str
    text: str
    words: tuple[str, ...]


class Parsed(Exception):
    """A command line that its parser has accepted."""


def commands_of(page: Path) -> Iterator[Command]:
    """All commands in blocks of code and in the first column of tables, in their order."""
    name = page.relative_to(ROOT).as_posix()
    for line in _lines(page.read_text(encoding="utf-8")):
        for text in re.split(r" && | \| ", line):
            try:
                words = tuple(shlex.split(text, comments=True))
            except ValueError:  # a sentence with an apostrophe
                continue
            if words and words[0] in PROGRAMS and len(words) > 1:
                yield Command(name, " ".join(words), words)


def _lines(text: str) -> Iterator[str]:
    """Lines of code without explanations behind them, and commands in the first cell of rows."""
    fence, begun = None, ""
    for line in text.splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line[3:]
        elif begun or fence in ("bash", "sh") or (fence is None and line.startswith("    ")):
            line = begun + re.split(r"\s{2,}(?=\S)", line.strip())[0]
            begun = line.removesuffix("\\") if line.endswith("\\") else ""
            if not begun:
                yield line
        elif found := re.match(r"\| `([^`]+)` \|", line):
            yield found[1]


def own(command: Command) -> tuple[str, list[str]] | None:
    """A command of ours as `ds-bert` names it, with its arguments; None: it is another program's.

    `launch` stands for DeepSpeed's and torch's launchers too.
    """
    program, first, *rest = command.words
    if program == "ds-bert":
        return first, rest
    if program == "deepspeed":
        return "launch", [first, *rest]
    if program == "python" and first == "-m" and rest[0] == "torch.distributed.run":
        return "launch", [word for word in rest[1:] if not word.startswith("--nproc")]
    path = Path(first)
    if program == "python" and path.parent.name in ("scripts", "ds_bert"):
        modules = {module: name for name, module in COMMANDS.items()}
        modules |= {"make_demo_corpus": "demo-corpus"}
        if path.stem in modules:
            return modules[path.stem], rest
    return None


def filled_in(words: list[str]) -> list[str]:
    """Arguments without [what may be left out] marks, with something for N, RECIPE and the like."""
    words = [word.strip("[]") for word in words]
    return [PLACEHOLDERS.get(word, word) for word in words]


def parse(command: Command) -> None:
    """Read a command of ours as it reads itself, up to where its work would begin.

    Raises:
        SystemExit, ConfigurationError: what its user would see.
    """
    found = own(command)
    assert found is not None, command.text
    name, words = found[0], filled_in(found[1])
    assert name in COMMANDS, command.text
    if name == "train":
        train.parse_command_line(words, world_size=1)
    elif name == "launch":
        program, arguments, ranks = launched(words)
        assert program in TRAIN, command.text
        train.parse_command_line(arguments, world_size=ranks)
    elif name == "preflight":
        options, rest = preflight._parser(None).parse_known_args(words)
        recipe = ["--ds_config", options.ds_config] if options.ds_config else []
        assert recipe or not rest, command.text
        if recipe:
            train.parse_command_line([*recipe, *rest], world_size=1)
    else:
        module = importlib.import_module(f"ds_bert.commands.{COMMANDS[name]}")
        stop_after_parsing(lambda: module.main(words, f"ds-bert {name}"))


def launched(words: list[str]) -> tuple[str, list[str], int]:
    """What a launcher starts: the program, its arguments, and the number of ranks; 1: not said."""
    from deepspeed.launcher.runner import parse_args

    class Door:
        def __init__(self, arguments: list[str], *_: Any) -> None:
            self.arguments = arguments

        def launch(self) -> list[str]:
            return self.arguments

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "Door", Door)
        options = parse_args(launch.main(words))
    return options.user_script, options.user_args, max(1, options.num_gpus)


def stop_after_parsing(call: Any) -> None:
    """Call a command until argparse has accepted its line."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: Any, *arguments: Any, **more: Any) -> None:
        original(self, *arguments, **more)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        call()


@cache
def flags_of(name: str) -> frozenset[str]:
    """All flags of a command."""
    seen: list[Any] = []

    def parse_args(self: Any, *_: Any) -> None:
        seen.extend(self._option_string_actions)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        importlib.import_module(f"ds_bert.commands.{COMMANDS[name]}").main([], None)
    return frozenset(seen)


def recognise(command: Command) -> bool:
    """Whether the flags of another system's command line are known, each of them."""
    name, words = own(command) or ("", [])
    if name == "launch":
        name, (_, words, _) = "train", launched(words)
    return dialects.foreign(dialects.TRAIN, words, train.own_flags()) is not None
