"""Which systems are known, with their scripts; which one a command line is written for."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ds_bert.dialects.command_line import CHOICE, find, foreign_names, items
from ds_bert.dialects.draft import Draft
from ds_bert.dialects.flags import Flag, Given
from ds_bert.dialects.tables import bing_bert, google, huggingface, huggingface_flags, nvidia
from ds_bert.errors import ConfigurationError, suggest

PREPROCESS, TRAIN = "preprocess", "train"


@dataclass(frozen=True)
class Script:
    """A script of a system, and the command that takes its flags.

    Attributes:
        system: key of the system, as --coming_from takes it.
        name: of the script.
        command: PREPROCESS, or TRAIN: that is also what evaluate takes.
        flags: by name and alias.
        base: the flag that names a DeepSpeed file to complete; None: it has none.
        preprocess: makes options of PreprocessOptions.
        train: completes a draft.
        evaluate: makes arguments of `evaluate_path`; None: it cannot.
        is_evaluation: whether the flags ask for an evaluation and no training.
        marks: flags that tell scripts of one system apart.
    """

    system: str
    name: str
    command: str
    flags: Mapping[str, Flag]
    base: str | None = None
    preprocess: Callable[[Given], dict[str, Any]] | None = None
    train: Callable[[Given, Draft], None] | None = None
    evaluate: Callable[[Given, Draft], dict[str, Any]] | None = None
    is_evaluation: Callable[[Given], bool] = field(default=lambda given: False)
    marks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The script as users know it."""
        return f"{SYSTEMS[self.system]}, {self.name}"


SYSTEMS = {
    "google": "google-research/bert",
    "nvidia": "NVIDIA DeepLearningExamples",
    "huggingface": "Hugging Face transformers",
    "bing_bert": "DeepSpeedExamples bing_bert",
}
SCRIPTS = (
    Script(
        "google",
        "create_pretraining_data.py",
        PREPROCESS,
        google.CREATE_PRETRAINING_DATA,
        preprocess=google.preprocess,
    ),
    Script(
        "google",
        "run_pretraining.py",
        TRAIN,
        google.RUN_PRETRAINING,
        train=google.train,
        evaluate=google.evaluate,
        is_evaluation=google.is_evaluation,
        marks=("bert_config_file", "num_train_steps"),
    ),
    Script(
        "nvidia",
        "create_pretraining_data.py",
        PREPROCESS,
        nvidia.CREATE_PRETRAINING_DATA,
        preprocess=google.preprocess,
        marks=("bert_model",),
    ),
    Script(
        "nvidia",
        "run_pretraining.py",
        TRAIN,
        nvidia.RUN_PRETRAINING,
        train=nvidia.train,
        marks=("input_dir", "config_file"),
    ),
    Script(
        "huggingface",
        "run_mlm.py",
        TRAIN,
        huggingface_flags.RUN_MLM,
        base="deepspeed",
        train=huggingface.train,
        evaluate=huggingface.evaluate,
        is_evaluation=huggingface.is_evaluation,
        marks=("model_name_or_path", "train_file", "validation_file", "dataset_name"),
    ),
    Script(
        "huggingface",
        "run_mlm_no_trainer.py",
        TRAIN,
        huggingface_flags.RUN_MLM_NO_TRAINER,
        train=huggingface.train_without_trainer,
        marks=("max_train_steps", "num_warmup_steps", "checkpointing_steps", "with_tracking"),
    ),
    Script(
        "bing_bert",
        "deepspeed_train.py",
        TRAIN,
        bing_bert.DEEPSPEED_TRAIN,
        base="deepspeed_config",
        train=bing_bert.train,
        marks=("cf", "deepspeed_config", "data_path_prefix"),
    ),
)


def recognise(command: str, argv: Sequence[str], native: Collection[str]) -> Script | None:
    """The script that a command line is written for.

    Args:
        command: PREPROCESS or TRAIN.
        argv: the command line.
        native: flags of the command itself, without dashes.

    Returns:
        the script; None: the command line is the command's own.

    Raises:
        ConfigurationError: a flag that nobody knows; flags that several systems know, unlike.
    """
    parts = items(argv)
    names = [part.name for part in parts if part.written]
    chosen = next((part.words[0] for part in parts if part.name == CHOICE and part.words), None)
    foreign = [name for name in foreign_names(argv, native) if name != CHOICE]
    if not foreign and chosen is None:
        return None
    if chosen is not None and chosen not in SYSTEMS:
        raise ConfigurationError(f"--{CHOICE} {chosen}: {suggest(chosen, SYSTEMS)}")
    scripts = [script for script in SCRIPTS if script.command == command]
    scripts = [script for script in scripts if chosen in (None, script.system)]
    if not scripts:
        raise ConfigurationError(f"--{CHOICE} {chosen} has no script for this command")
    able = [s for s in scripts if all(find(name, s.flags) for name in foreign)]
    if not able:
        raise ConfigurationError(_unknown(foreign, scripts, native))
    if "ds_config" in names and chosen is None:  # the file has all that systems differ in
        able = [s for s in able if s.base is not None] or able
    return _the_one(able, names)


def _the_one(able: list[Script], names: list[str]) -> Script:
    marks = [sum(name in script.marks for name in names) for script in able]
    best = [s for s, mark in zip(able, marks, strict=True) if mark == max(marks)]
    if len({script.system for script in best}) == 1:
        return best[0]
    raise ConfigurationError(
        f"several systems have these flags, with other defaults ("
        f"{', '.join(script.title for script in best)}); say which with --{CHOICE} "
        f"{'|'.join(script.system for script in best)}"
    )


def _unknown(foreign: list[str], scripts: list[Script], native: Collection[str]) -> str:
    """The message about the flag that is known to the fewest."""
    nearest = max(scripts, key=lambda s: sum(find(name, s.flags) is not None for name in foreign))
    name = next(name for name in foreign if find(name, nearest.flags) is None)
    others = [s.title for s in scripts if find(name, s.flags)]
    if others:
        return f"--{name} is a flag of {', '.join(others)}, other flags are of {nearest.title}"
    known = sorted({flag for s in scripts for flag in s.flags} | set(native))
    return f"unknown flag --{name}; {suggest(name, known)}"
