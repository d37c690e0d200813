"""Train a BERT.

python ds_bert/train.py --ds_config demo/seq128 --dry_run
python ds_bert/train.py --ds_config my.json --max_steps 500
deepspeed --num_accelerators 2 --module ds_bert.train --ds_config demo/seq128
deepspeed --hostfile hosts --module ds_bert.train --ds_config seq128

Command lines of google-research/bert, NVIDIA, Hugging Face and bing_bert: docs/coming-from.md.
"""

import argparse
import dataclasses
import os
import sys
from typing import Any, NamedTuple

from ds_bert import recipes
from ds_bert.config import MICRO_BATCH, SECTION, TrainingConfig, check_keys, load_json
from ds_bert.dialects.command_line import is_foreign, with_values

_OWN_FLAGS = ("ds_config", "local_rank", "train_micro_batch_size", "save_recipe", "help")


class Start(NamedTuple):
    """What a command line, and the file that it names, begin with."""

    recipe: dict[str, Any]
    section: dict[str, Any]
    argv: list[str]


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and train; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if _asks_for_evaluation(argv):
        from ds_bert.commands import evaluate

        evaluate.main(argv, prog)
        return 0
    config, recipe = parse_command_line(argv, prog)
    from ds_bert import distributed  # after parsing: torch and DeepSpeed take seconds to import
    from ds_bert.training.run import run

    code = run(config, recipe)
    distributed.shutdown()  # not after an error: other ranks may stand in a collective
    return code


def parse_command_line(
    argv: list[str] | None = None, prog: str | None = None
) -> tuple[TrainingConfig, dict[str, Any]]:
    """Read the command line and the recipe that it names.

    Args:
        argv: arguments without the program's name; None: those of the process.
        prog: the program's name in messages; None: that of the script.

    Returns:
        the typed configuration, and DeepSpeed's part of the JSON as it stands in the file.

    Raises:
        ConfigurationError: unreadable file, unknown key or bad value.
    """
    switches = {f.name for f in dataclasses.fields(TrainingConfig) if "bool" in str(f.type)}
    argv = with_values(sys.argv[1:] if argv is None else argv, switches)
    is_own = not is_foreign(argv, own_flags())
    parser = _parser(prog, is_own)
    start = _own_start(parser, argv) if is_own else _foreign_start(argv)
    names = [item.name for item in dataclasses.fields(TrainingConfig)]
    check_keys(start.section, names, f'section "{SECTION}"')
    parser.set_defaults(**start.section)
    values = vars(parser.parse_args(start.argv))
    _override_warmup(values, start.section)
    if values["train_micro_batch_size"] is not None:
        start.recipe[MICRO_BATCH] = values["train_micro_batch_size"]
    config = TrainingConfig(**{name: values[name] for name in names})
    if values["save_recipe"]:
        _save(values["save_recipe"], config, start.recipe)
    return config, start.recipe


def own_flags() -> set[str]:
    """Names of all flags that are not those of other systems."""
    return {item.name for item in dataclasses.fields(TrainingConfig)} | set(_OWN_FLAGS)


def _parser(prog: str | None, is_own: bool) -> Any:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(
        TrainingConfig,  # type: ignore[arg-type]
        prog=prog,
        description="Train a BERT; each field of the configuration is a flag of the same name.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--ds_config", required=is_own, help="JSON file: the recipe")
    parser.add_argument("--local_rank", type=int, default=-1, help="set by the launcher")
    parser.add_argument(
        "--train_micro_batch_size",
        type=_number_or_word,
        help=f"sequences per forward pass and rank, or auto (measured); instead of {MICRO_BATCH}",
    )
    parser.add_argument("--save_recipe", help="write what holds in the end as a recipe")
    return parser


def _own_start(parser: Any, argv: list[str]) -> Start:
    recipe = load_json(recipes.find(parser.parse_args(argv).ds_config))
    return Start(recipe, recipe.pop(SECTION, {}), argv)


def _foreign_start(argv: list[str]) -> Start:
    """The same for a command line of another system; opens, and perhaps imports, the data."""
    from ds_bert.dialects import translate

    command = translate.foreign(translate.TRAIN, argv, own_flags())
    assert command is not None
    recipe, environment = translate.training_recipe(command)
    os.environ.update(environment)
    return Start(recipe, recipe.pop(SECTION, {}), command.rest)


def _asks_for_evaluation(argv: list[str]) -> bool:
    """Whether the flags are those of another system that evaluates with its training script."""
    if not is_foreign(argv, own_flags()):
        return False
    from ds_bert.dialects import translate

    command = translate.foreign(translate.TRAIN, argv, own_flags())
    return command is not None and command.is_evaluation


def _save(path: str, config: TrainingConfig, recipe: dict[str, Any]) -> None:
    from ds_bert.dialects.translate import save_recipe

    fields = dataclasses.fields(TrainingConfig)
    section = {f.name: getattr(config, f.name) for f in fields if f.name != "dry_run"}
    changed = {
        f.name: section[f.name] for f in fields if section.get(f.name, f.default) != f.default
    }
    save_recipe(path, {**recipe, SECTION: changed})


def _override_warmup(values: dict[str, Any], section: dict[str, Any]) -> None:
    """A warm-up on the command line replaces that of the file, whichever way each is given."""
    names = ("warmup_steps", "warmup_proportion")
    flags = [name for name in names if values[name] != section.get(name)]
    if len(flags) == 1:
        values.update({name: None for name in names if name not in flags})


def _number_or_word(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text  # checked with the value of the file: `engine_config.plan_batch`
