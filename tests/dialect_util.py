"""Command lines of other systems in tests, and what they become."""

import json
from pathlib import Path

from training_util import MODEL, make_data

from ds_bert.commands.train import parse_command_line


def write_model(folder: Path) -> Path:
    """A config.json of a very small model."""
    path = folder / "bert_config.json"
    path.write_text(json.dumps(MODEL))
    return path


def training(line: str):
    """The configuration and DeepSpeed's part of the recipe that a command line becomes."""
    return parse_command_line(line.split())


def small_data(folder: Path, golden: Path) -> Path:
    """A data set of sequences of 32 tokens alone."""
    return make_data(folder / "data", golden, max_seq_length=(32,))
