"""What a plan may say: the names of its stages, and of the options of each."""

import dataclasses
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from ds_bert.config import TrainingConfig
from ds_bert.errors import require
from ds_bert.limits.training import check_type
from ds_bert.preprocessing.options import PreprocessOptions
from ds_bert.scoring.options import ScoreOptions
from ds_bert.strict_json import check_keys

VOCABULARY, DATA, EVALUATION = "vocabulary", "data", "evaluation"
SCORE, EXPORT = "score", "export"
PHASES = ("phase_1", "phase_2")
STAGES = (VOCABULARY, DATA, *PHASES, EVALUATION, SCORE, EXPORT)
DS_CONFIG = "ds_config"  # in a phase: the recipe that the rest of it changes

# At the top, for several stages.
COMMON: dict[str, Any] = {
    "description": str,
    "input_file": Sequence[str],
    "output_dir": str,
    "hours": float,
    "text_column": str,
    "do_lower_case": bool,
    "errors": str,
}
OF_TEXT = ("text_column", "do_lower_case", "errors")  # those that go to vocabulary and data
_PLACED = (
    *("input_file", "leave_out", "output_dir", "vocab_file", "validation_dir", "overwrite"),
    "dry_run",
)


def _fields(options: type, without: Iterable[str]) -> dict[str, Any]:
    """Types of the fields of a dataclass that are flags."""
    types = typing.get_type_hints(options)
    fields = (item for item in dataclasses.fields(options) if "help" in item.metadata)
    return {item.name: types[item.name] for item in fields if item.name not in without}


# Options of each stage that the plan does not decide itself, by their names, with their types.
OPTIONS: dict[str, dict[str, Any]] = {
    VOCABULARY: {
        "vocab_size": int,
        "min_frequency": int,
        "max_alphabet": int,
        "model_name_or_path": str,
    },
    DATA: _fields(PreprocessOptions, (*_PLACED, *OF_TEXT)),
    EVALUATION: {
        "max_seq_length": int,
        "only_mlm": bool,
        "eval_batch_size": int,
        "max_eval_sequences": int,
        "compare": str,
        "pseudo_perplexity": int,
        "fill_mask": int,
    },
    SCORE: _fields(ScoreOptions, ("checkpoint",)),
    EXPORT: {
        "text": str,
        "sentence_transformers": bool,
        "onnx": bool,
        "language": Sequence[str],
        "license": str,
        "push_to_hub": str,
        "public": bool,
    },
}
# Fields of a phase's section "ds_bert" that the road decides itself.
DECIDED = (
    *("train_data", "validation_data", "output_dir", "resume", "rollback", "max_time", "dry_run"),
    "decay_from",
)
# Options that change nothing about what comes out: a stage that is done stays done.
NEUTRAL = {
    DATA: ("num_workers",),
    EVALUATION: ("eval_batch_size",),
    **dict.fromkeys(
        PHASES,
        (
            *("log_interval", "report_to", "report_seconds", "eval_interval", "eval_batch_size"),
            *("max_eval_sequences", "save_interval", "save_minutes", "async_save"),
            *("keep_checkpoints", "keep_every", "watchdog_seconds", "local_data", "description"),
            *("max_loss_spike", "max_consecutive_skips", "train_micro_batch_size_per_gpu"),
            *("compile_layers", "check_interval"),
        ),
    ),
}


def check_options(found: Any, types: dict[str, Any], where: str) -> None:
    """Refuse keys that are not known, and values that are not of their type.

    Args:
        found: an object of the plan.
        types: of the values, by key.
        where: it stands, for the message.

    Raises:
        ConfigurationError: names the key.
    """
    check_keys(found, types, where)
    for name, value in found.items():
        kinds = typing.get_args(types[name])
        whole = next((k for k in (types[name], *kinds) if typing.get_origin(k) is Sequence), None)
        if whole is None:
            check_type(f"{where}: {name}", value, types[name])
            continue
        kind = typing.get_args(whole)[0]
        is_list = isinstance(value, list) and bool(value)
        require(is_list, f"{where}: {name}", value, f"a list of {kind.__name__}")
        for item in value:
            check_type(f"{where}: {name}", item, kind)


def flags(options: dict[str, Any]) -> list[str]:
    """Options as the flags of a command; false and null are those that are not given."""
    line: list[str] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        line.append(f"--{name}")
        if value is not True:
            line += map(str, value if isinstance(value, list | tuple) else [value])
    return line


def training_fields() -> set[str]:
    """Names of the fields of a phase's section."""
    return {item.name for item in dataclasses.fields(TrainingConfig)}
