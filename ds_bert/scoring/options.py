"""What the user says about a score, checked."""

import math
from dataclasses import dataclass

from ds_bert.config import option
from ds_bert.errors import require
from ds_bert.limits.training import MAX_MICRO_BATCH

CLASSIFICATION, TAGGING, PAIRS = TASKS = ("classification", "tagging", "pairs")
MODEL, DATA, TUNING, WATCHING = "model", "data", "fine-tuning", "watching"  # groups of flags


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Options of a score; every field is also a flag (`commands.score`).

    Raises:
        ConfigurationError: a value has no meaning or contradicts another.
    """

    checkpoint: str = option(
        "", "run folder, checkpoint, or Hugging Face folder or id", group=MODEL, required=True
    )
    compare: str | None = option(
        None, "another model, on the same task", group=MODEL, metavar="CHECKPOINT"
    )
    untrained: bool = option(False, "also the same architecture with random weights", group=MODEL)
    task: str = option(
        "",
        "a class of a text, a tag of each word, or a class of two texts",
        group=DATA,
        required=True,
        choices=TASKS,
    )
    train_file: str = option(
        "",
        "table (.csv, .tsv, .jsonl, .parquet; also compressed), folder of save_to_disk, or "
        "hf:OWNER/NAME[:CONFIG[:SPLIT]]; split of data sets that have several: train",
        group=DATA,
        metavar="FILE",
        required=True,
    )
    test_file: str = option("", "likewise; split: test", group=DATA, metavar="FILE", required=True)
    text_column: str = option(
        "text",
        "texts; for tagging lists of words, or words with spaces between; default {default}",
        group=DATA,
        metavar="NAME",
    )
    text_pair_column: str = option(
        "text_pair", "second texts of pairs; default {default}", group=DATA, metavar="NAME"
    )
    label_column: str = option(
        "label",
        "classes; for tagging a tag for each word; default {default}",
        group=DATA,
        metavar="NAME",
    )
    seeds: int = option(5, "how many times; default {default}", group=TUNING, metavar="N")
    epochs: int = option(3, "passes over the training examples; default {default}", group=TUNING)
    lr: float = option(
        5e-5, "peak learning rate; small models want more; default {default}", group=TUNING
    )
    batch_size: int = option(32, "examples of a step; default {default}", group=TUNING)
    max_seq_length: int = option(
        128, "tokens of an example at most; default {default}", group=TUNING
    )

    def __post_init__(self):
        require(self.task in TASKS, "task", self.task, f"one of {', '.join(TASKS)}")
        for name in ("seeds", "epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        is_rate = 0 < self.lr < math.inf
        require(is_rate, "lr", self.lr, "a number above 0, such as 5e-5")
        is_size = 1 <= self.batch_size <= MAX_MICRO_BATCH
        require(is_size, "batch_size", self.batch_size, f"from 1 to {MAX_MICRO_BATCH:,}")
        # [CLS], a piece, [SEP]; of pairs two pieces and another [SEP].
        require(self.max_seq_length >= 5, "max_seq_length", self.max_seq_length, "at least 5")


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Options of `--watch`; every field is also a flag.

    Raises:
        ConfigurationError: a value has no meaning.
    """

    every_steps: int = option(
        1,
        "score checkpoints of steps that it divides, and the last one; default: all",
        group=WATCHING,
        metavar="N",
    )
    patience: float = option(
        60.0,
        "seconds to wait for a run that is not at its end and that nobody works on; default "
        "{default:g}",
        group=WATCHING,
        metavar="SECONDS",
    )

    def __post_init__(self):
        require(self.every_steps >= 1, "every_steps", self.every_steps, "at least 1")
        is_time = 0 <= self.patience < math.inf
        require(is_time, "patience", self.patience, "a number of seconds from 0 on")
