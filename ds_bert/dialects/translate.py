"""A command line of another system as one of ours; what its user is told."""

import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ds_bert import launcher, recipes
from ds_bert.config import SECTION
from ds_bert.dialects.command_line import CHOICE, items, read
from ds_bert.dialects.draft import Draft
from ds_bert.dialects.flags import ANSWERED, OBEYED, REFUSED, Given
from ds_bert.dialects.systems import TRAIN, Script, recognise
from ds_bert.errors import ConfigurationError
from ds_bert.strict_json import load_json


@dataclass(frozen=True)
class Foreign:
    """A command line that is written for a script of another system.

    Attributes:
        script: which one.
        given: its flags.
        rest: flags of our own command, with their values.
    """

    script: Script
    given: Given
    rest: list[str]

    @property
    def is_evaluation(self) -> bool:
        """Whether it asks for an evaluation and no training."""
        return self.script.is_evaluation(self.given)


def foreign(command: str, argv: list[str], native: Collection[str]) -> Foreign | None:
    """Recognise and read a command line; None: it is the command's own.

    Args:
        command: PREPROCESS or TRAIN.
        argv: a command line, or one JSON file with the flags by name, as run_mlm.py takes it.
        native: flags of our command, without dashes.

    Raises:
        ConfigurationError: an unknown flag or a bad value, a flag whose effect cannot be had.
    """
    if command == TRAIN and len(argv) == 1 and argv[0].endswith(".json"):
        argv = [*_words(_arguments(argv[0])), f"--{CHOICE}=huggingface"]
    script = recognise(command, argv, native)
    if script is None:
        return None
    given, rest = read(_without_choice(argv), script.flags)
    for name in given.explicit:
        flag = script.flags[name]
        if flag.status == REFUSED and given[name] not in (flag.default, *flag.harmless):
            raise ConfigurationError(f"--{name} {given[name]}: {flag.text}")
    return Foreign(script, given, rest)


def preprocess_options(command: Foreign) -> dict[str, Any]:
    """Options of preprocessing that a command line asks for; the user is told the rest."""
    assert command.script.preprocess is not None
    draft = Draft(command.given)
    options = command.script.preprocess(command.given)
    _tell(command, draft)
    return options


class Training(NamedTuple):
    """What a training command becomes.

    Attributes:
        recipe: with its section "ds_bert".
        environment: variables to set before torch is imported.
        argv: flags of our own command that are left.
    """

    recipe: dict[str, Any]
    environment: dict[str, str]
    argv: list[str]


def training(command: Foreign) -> Training:
    """The training that a command line asks for; the user is told what else there is to know.

    Raises:
        ConfigurationError, DataError: what cannot be had, or does not fit.
    """
    assert command.script.train is not None
    base, argv = _base(command)
    draft = Draft(command.given, base, {item.name: item.words for item in items(argv)})
    command.script.train(command.given, draft)
    recipe = draft.close()
    _tell(command, draft)
    return Training(recipe, draft.environment, argv)


def evaluation(command: Foreign) -> dict[str, Any]:
    """Arguments of `evaluate_path` that a command line asks for.

    Raises:
        ConfigurationError: the script evaluates nothing.
    """
    if command.script.evaluate is None:
        raise ConfigurationError(
            f"{command.script.title} evaluates nothing; type ds-bert evaluate --checkpoint RUN"
        )
    own = {item.name: item.words for item in items(command.rest)}
    draft = Draft(command.given, own=own | {"train_data": own.get("data", [])})
    arguments = command.script.evaluate(command.given, draft)
    _tell(command, draft)
    return arguments


def _base(command: Foreign) -> tuple[dict[str, Any] | None, list[str]]:
    """The DeepSpeed file to complete, of the script's flag or --ds_config, and what is left."""
    named, rest = None, []
    for item in items(command.rest):
        if item.name == "ds_config":
            named = item.words[0]
        else:
            rest += item.plain
    if command.script.base is not None and command.given[command.script.base]:
        named = command.given[command.script.base]
    return (load_json(recipes.find(named)) if named else None), rest


def _tell(command: Foreign, draft: Draft) -> None:
    """Print counts and answers on rank 0; nothing is ignored without a word."""
    if launcher.place()[0] != 0:
        return
    flags = [command.script.flags[name] for name in sorted(command.given.explicit)]
    answers = [f"--{flag.name}: {flag.text}" for flag in flags if flag.status == ANSWERED]
    num_obeyed = sum(flag.status in (OBEYED, REFUSED) for flag in flags)
    head = f"{command.script.title}: {num_obeyed} flags obeyed, {len(answers)} answered"
    lines = [head, *(f"  {answer}" for answer in draft.answers + answers)]
    print("\n".join(lines), file=sys.stderr, flush=True)


def _arguments(path: str) -> dict[str, Any]:
    values = load_json(path)
    if {SECTION, "optimizer", "train_batch_size"} & values.keys():
        raise ConfigurationError(f"{path} is a recipe; give --ds_config {path}")
    return values


def _words(values: dict[str, Any]) -> Iterable[str]:
    """A JSON file of arguments as a command line."""
    for name, value in values.items():
        if isinstance(value, list):
            yield from (f"--{name}", *map(str, value))
        elif value is not None:
            yield f"--{name}={value}"


def _without_choice(argv: Iterable[str]) -> list[str]:
    return [word for item in items(argv) if item.name != CHOICE for word in item.plain]
