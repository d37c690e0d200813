"""The folder of the run that is launched: where it can be asked to stop, and what is told there."""

import argparse
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ds_bert import recipes
from ds_bert.config import SECTION, TrainingConfig
from ds_bert.errors import ConfigurationError
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
            "--restarts, or leave it out"
        )


def note(folder: Path | None, **facts: Any) -> None:
    """Add a line to the run's diary; nothing where there is no folder yet."""
    row = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
    if folder is not None and folder.is_dir():
        with suppress(OSError), open(folder / DIARY, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _training_flags(arguments: list[str]) -> argparse.Namespace | None:
    names = [os.path.basename(argument) for argument in arguments]
    first = next((n for n, name in enumerate(names) if name in _TRAINING), None)
    if first is None:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--ds_config", "--output_dir"):
        parser.add_argument(name)
    parser.add_argument("--resume", default="auto")
    parser.add_argument("--rollback", nargs="?", const="true", default="")
    return parser.parse_known_args(arguments[first + 1 :])[0]
