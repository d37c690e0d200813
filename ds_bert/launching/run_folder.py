"""The folder of the run that is launched: where it can be asked to stop, and what is told there."""

import argparse
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ds_bert import recipes
from ds_bert.batching.ramp import BatchRamp
from ds_bert.config import SECTION, TrainingConfig
from ds_bert.errors import ConfigurationError, require
from ds_bert.strict_json import load_json

DIARY = "launches.jsonl"
_TRAINING = ("train.py", "ds_bert.train")


def run_folder(arguments: list[str]) -> Path | None:
    """The run's folder by DeepSpeed's arguments; None: no training of ours.

    Raises:
        ConfigurationError: the recipe is missing or damaged.
    """
    flags = _training_flags(arguments)
    if flags is None:
        return None
    if flags.output_dir is None and flags.ds_config is not None:
        section = load_json(recipes.find(flags.ds_config)).get(SECTION)
        flags.output_dir = section.get("output_dir") if isinstance(section, dict) else None
    return Path(flags.output_dir or TrainingConfig.output_dir)


def train_batch_size(arguments: list[str]) -> int:
    """What ranks have to divide, by the recipe that DeepSpeed's arguments name.

    Sequences of an optimizer step; with a ramp what divides the sizes of all steps.

    Raises:
        ConfigurationError: no recipe says so: it would follow from the number of ranks.
    """
    flags = _training_flags(arguments)
    batch, ramp = getattr(flags, "scale_train_batch_size", None), None
    if batch is None and flags is not None and flags.ds_config is not None:
        recipe = load_json(recipes.find(flags.ds_config))
        batch, section = recipe.get("train_batch_size"), recipe.get(SECTION)
        in_file = section.get("batch_ramp") if isinstance(section, dict) else None
        ramp = flags.batch_ramp or in_file
    is_size = isinstance(batch, int) and not isinstance(batch, bool) and batch > 0
    expected = "the size that stays, in a recipe (--ds_config; --save_recipe FILE makes one)"
    require(is_size, "elastic: train_batch_size", batch, expected)
    assert isinstance(batch, int)
    return BatchRamp.of(ramp, batch).unit


def training_begins(arguments: list[str]) -> int | None:
    """Where ds_bert's training stands in DeepSpeed's arguments; what follows are its flags."""
    names = [os.path.basename(argument) for argument in arguments]
    return next((n for n, name in enumerate(names) if name in _TRAINING), None)


def require_repeatable(arguments: list[str]) -> None:
    """Refuse what would go back again at each restart.

    Raises:
        ConfigurationError: the arguments name a checkpoint to start from, or roll back.
    """
    flags = _training_flags(arguments)
    if flags is not None and (flags.resume != "auto" or flags.rollback):
        found = "--rollback" if flags.rollback else f"--resume {flags.resume}"
        raise ConfigurationError(
            f"restarts: found {found}, which would go back again at each; start once without "
            "--restarts and --elastic, or leave it out"
        )


def say(message: str) -> None:
    """Print a line of the launch itself."""
    print(f"launch: {message}", flush=True)


def note(folder: Path | None, **facts: Any) -> None:
    """Add a line to the run's diary; nothing where there is no folder yet."""
    row = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
    if folder is not None and folder.is_dir():
        with suppress(OSError), open(folder / DIARY, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _training_flags(arguments: list[str]) -> argparse.Namespace | None:
    begin = training_begins(arguments)
    if begin is None:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--ds_config", "--output_dir", "--batch_ramp"):
        parser.add_argument(name)
    parser.add_argument("--scale_train_batch_size", type=int)
    parser.add_argument("--resume", default="auto")
    parser.add_argument("--rollback", nargs="?", const="true", default="")
    return parser.parse_known_args(arguments[begin + 1 :])[0]
