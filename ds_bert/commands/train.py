"""Train a BERT.

python ds_bert/train.py --ds_config demo/seq128 --dry_run
python ds_bert/train.py --ds_config my.json --max_steps 500
deepspeed --num_accelerators 2 --module ds_bert.train --ds_config demo/seq128
deepspeed --hostfile hosts --module ds_bert.train --ds_config seq128

Command lines of google-research/bert, NVIDIA, Hugging Face and bing_bert: docs/coming-from.md.
"""

import argparse
import dataclasses
import io
import os
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

from ds_bert import files, launcher, recipes
from ds_bert.config import MICRO_BATCH, SECTION, TrainingConfig
from ds_bert.deepspeed_files.translate import translate
from ds_bert.dialects.command_line import is_foreign, with_values
from ds_bert.errors import ConfigurationError
from ds_bert.strict_json import check_keys, load_json

_FIELDS = [item.name for item in dataclasses.fields(TrainingConfig)]
_OTHER_FLAGS = (
    *("ds_config", "local_rank", "train_micro_batch_size", "scale_train_batch_size"),
    *("save_recipe", "help"),
)


_TURN = 10.0  # seconds in which the first rank of a host has told its error and ended


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
    config, recipe = _parse_in_turn(argv, prog)
    from ds_bert import distributed  # after parsing: torch and DeepSpeed take seconds to import
    from ds_bert.training.run import run

    code = run(config, recipe)
    distributed.shutdown()  # not after an error: other ranks may stand in a collective
    return code


def _parse_in_turn(argv: list[str], prog: str | None) -> tuple[TrainingConfig, dict[str, Any]]:
    """Parse; a mistake, which all ranks of a host come to, is told by the first of them.

    The launcher ends the others when that one has ended. Where none does, they tell it later.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        return parse_command_line(argv, prog)
    words = io.StringIO()
    try:
        with redirect_stderr(words):
            return parse_command_line(argv, prog)
    except (ConfigurationError, SystemExit):
        time.sleep(_TURN)
        raise
    finally:
        sys.stderr.write(words.getvalue())


def parse_command_line(
    argv: list[str] | None = None, prog: str | None = None, world_size: int | None = None
) -> tuple[TrainingConfig, dict[str, Any]]:
    """Read the command line and the recipe that it names.

    Args:
        argv: arguments without the program's name; None: those of the process.
        prog: the program's name in messages; None: that of the script.
        world_size: number of ranks; None: that of the launcher.

    Returns:
        the typed configuration, and DeepSpeed's part of the JSON: as it stands in the file, but for
        what a note on rank 0's output tells.

    Raises:
        ConfigurationError: unreadable file, unknown key or bad value.
    """
    switches = {f.name for f in dataclasses.fields(TrainingConfig) if "bool" in str(f.type)}
    argv = with_values(sys.argv[1:] if argv is None else argv, switches)
    is_own = not is_foreign(argv, own_flags())
    parser = _parser(prog, is_own)
    start = _own_start(parser, argv) if is_own else _foreign_start(argv)
    flags = parser.parse_args(start.argv)
    recipe, section = _in_our_terms(start, flags, world_size)
    parser.set_defaults(**section)
    values = vars(parser.parse_args(start.argv))
    for part in ("warmup", "decay"):
        _override_share(values, section, part)
    if values["train_micro_batch_size"] is not None:
        recipe[MICRO_BATCH] = values["train_micro_batch_size"]
    config = TrainingConfig(**{name: values[name] for name in _FIELDS})
    if values["save_recipe"]:
        _save(values["save_recipe"], config, recipe)
    return config, recipe


def own_flags() -> set[str]:
    """Names of all flags that are not those of other systems."""
    return {*_FIELDS, *_OTHER_FLAGS}


def _parser(prog: str | None, is_own: bool) -> Any:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(
        TrainingConfig,  # type: ignore[arg-type]
        prog=prog,
        description="Train a BERT; each field of the configuration is a flag of the same name.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--ds_config", required=is_own, help="JSON file: the recipe")
    flags = ("--local_rank", "--local-rank")
    parser.add_argument(*flags, type=int, default=-1, help="set by the launcher")
    parser.add_argument(
        "--train_micro_batch_size",
        type=_number_or_word,
        help=f"sequences per forward pass and rank, or auto (measured); instead of {MICRO_BATCH}",
    )
    parser.add_argument(
        "--scale_train_batch_size",
        type=int,
        metavar="N",
        help="this recipe with batches of N sequences: rates by the square root, as many sequences",
    )
    parser.add_argument("--save_recipe", metavar="FILE", help="write what holds in the end")
    return parser


def _own_start(parser: Any, argv: list[str]) -> Start:
    recipe = load_json(recipes.find(parser.parse_args(argv).ds_config))
    return Start(recipe, recipe.pop(SECTION, {}), argv)


def _foreign_start(argv: list[str]) -> Start:
    """The same for a command line of another system; opens, and perhaps imports, the data."""
    from ds_bert.dialects import translate as dialects

    command = dialects.foreign(dialects.TRAIN, argv, own_flags())
    assert command is not None
    recipe, environment, rest = dialects.training(command)
    os.environ.update(environment)
    return Start(recipe, recipe.pop(SECTION, {}), rest)


def _in_our_terms(
    start: Start, flags: argparse.Namespace, num_ranks: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recipe in ds_bert's terms, scaled if a batch is given; rank 0 tells what was changed."""
    check_keys(start.section, _FIELDS, f'section "{SECTION}"')
    rank, world_size = launcher.place()
    section = start.section | ({"elastic_batch": True} if flags.elastic_batch else {})
    recipe, section, notes = translate(start.recipe, section, num_ranks or world_size)
    if flags.scale_train_batch_size is not None:
        recipe, section = recipes.scale(recipe, section, flags.scale_train_batch_size)
        notes.append(section["description"])
    for note in notes if rank == 0 else ():
        print(f"note: {note}", flush=True)
    return recipe, section


def _asks_for_evaluation(argv: list[str]) -> bool:
    """Whether the flags are those of another system that evaluates with its training script."""
    if not is_foreign(argv, own_flags()):
        return False
    from ds_bert.dialects import translate as dialects

    command = dialects.foreign(dialects.TRAIN, argv, own_flags())
    return command is not None and command.is_evaluation


def _save(path: str, config: TrainingConfig, recipe: dict[str, Any]) -> None:
    """Write a recipe: DeepSpeed's part, and the fields that differ from their defaults."""
    values = {name: getattr(config, name) for name in _FIELDS if name != "dry_run"}
    default = {item.name: item.default for item in dataclasses.fields(TrainingConfig)}
    changed = {name: value for name, value in values.items() if value != default[name]}
    if launcher.place()[0] != 0:
        return
    text = files.as_json({**recipe, SECTION: changed}, indent=2)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        files.write_text(Path(path), f"{text}\n")
    except OSError as error:
        raise ConfigurationError(
            f"--save_recipe {path}: cannot be written ({error.strerror}); name another file"
        ) from None
    print(f"recipe: {path}; from now on --ds_config {path} does the same", file=sys.stderr)


def _override_share(values: dict[str, Any], section: dict[str, Any], part: str) -> None:
    """A warm-up or decay on the command line replaces the file's, whichever way each is given."""
    names = (f"{part}_steps", f"{part}_proportion")
    flags = [name for name in names if values[name] != section.get(name)]
    if len(flags) == 1:
        values.update({name: None for name in names if name not in flags})


def _number_or_word(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text  # checked with the value of the file: `engine_config.plan_batch`
