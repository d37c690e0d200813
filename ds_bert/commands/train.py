"""Train a BERT.

python ds_bert/train.py --ds_config demo/seq128 --dry_run
python ds_bert/train.py --ds_config my.json --max_steps 500
deepspeed --num_accelerators 2 --module ds_bert.train --ds_config demo/seq128
deepspeed --hostfile hosts --module ds_bert.train --ds_config seq128
"""

import argparse
import dataclasses
from typing import Any

from ds_bert import launcher, recipes
from ds_bert.config import MICRO_BATCH, SECTION, TrainingConfig, check_keys, load_json
from ds_bert.deepspeed_files.translate import translate

_FIELDS = [item.name for item in dataclasses.fields(TrainingConfig)]


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and train; returns the exit code."""
    config, recipe = parse_command_line(argv, prog)
    from ds_bert import distributed  # after parsing: torch and DeepSpeed take seconds to import
    from ds_bert.training.run import run

    code = run(config, recipe)
    distributed.shutdown()  # not after an error: other ranks may stand in a collective
    return code


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
    from transformers import HfArgumentParser

    parser = HfArgumentParser(
        TrainingConfig,  # type: ignore[arg-type]
        prog=prog,
        description="Train a BERT; each field of the configuration is a flag of the same name.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--ds_config", required=True, help="JSON file: the recipe")
    parser.add_argument("--local_rank", type=int, default=-1, help="set by the launcher")
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
    flags = parser.parse_args(argv)
    recipe, section = _read(flags.ds_config, flags.scale_train_batch_size, world_size)
    parser.set_defaults(**section)
    values = vars(parser.parse_args(argv))
    _override_warmup(values, section)
    if values["train_micro_batch_size"] is not None:
        recipe[MICRO_BATCH] = values["train_micro_batch_size"]
    return TrainingConfig(**{name: values[name] for name in _FIELDS}), recipe


def _read(
    name: str, batch: int | None, num_ranks: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recipe in ds_bert's terms, scaled if a batch is given; rank 0 tells what was changed."""
    recipe = load_json(recipes.find(name))
    section = recipe.pop(SECTION, {})
    check_keys(section, _FIELDS, f'section "{SECTION}"')
    rank, world_size = launcher.place()
    recipe, section, notes = translate(recipe, section, num_ranks or world_size)
    if batch is not None:
        recipe, section = recipes.scale(recipe, section, batch)
        notes.append(section["description"])
    for note in notes if rank == 0 else ():
        print(f"note: {note}", flush=True)
    return recipe, section


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
