"""What the fields of a training run's configuration may be, and which go together."""

import math
import re
import typing
from typing import Any, Literal

from ds_bert.errors import ConfigurationError, require

MAX_MICRO_BATCH = 2**15  # sequences: the tokens of a batch are counted in 32 bits
_DURATION = re.compile(r"|[0-9]+(\.[0-9]+)?|[0-9]+:[0-5]?[0-9]:[0-5]?[0-9]")


def check(config: Any) -> None:
    """Refuse values of the wrong type, out of range, or that contradict each other.

    Args:
        config: a `ds_bert.config.TrainingConfig`.

    Raises:
        ConfigurationError: names the first one.
    """
    # Not the fields' own types: HfArgumentParser rewrites those of optional fields.
    for name, annotation in typing.get_type_hints(type(config)).items():
        check_type(name, getattr(config, name), annotation)
    positive = ("max_seq_length", "max_steps", "log_interval", "eval_batch_size")
    for name in (*positive, "max_consecutive_skips"):
        require(getattr(config, name) >= 1, name, getattr(config, name), "at least 1")
    require(config.max_steps <= 10**9, "max_steps", config.max_steps, "at most 1,000,000,000")
    size = config.eval_batch_size
    require(size <= MAX_MICRO_BATCH, "eval_batch_size", size, f"at most {MAX_MICRO_BATCH:,}")
    require(config.seed < 2**63, "seed", config.seed, "below 2**63")
    or_none = ("eval_interval", "save_interval", "check_interval", "report_seconds")
    for name in (*or_none, "save_minutes", "max_eval_sequences", "max_loss_spike", "seed"):
        require(getattr(config, name) >= 0, name, getattr(config, name), "0 or more")
    require(config.fp8_edge_layers >= 0, "fp8_edge_layers", config.fp8_edge_layers, "0 or more")
    require(0 <= config.ema_decay < 1, "ema_decay", config.ema_decay, "0 (none) or more, below 1")
    is_clear = config.watchdog_seconds == 0 or config.watchdog_seconds >= 10
    require(is_clear, "watchdog_seconds", config.watchdog_seconds, "0 or at least 10")
    require(config.keep_checkpoints >= 2, "keep_checkpoints", config.keep_checkpoints, ">= 2")
    every, interval = config.keep_every, config.save_interval
    is_saved = every == 0 or (every > 0 and interval > 0 and every % interval == 0)
    require(is_saved, "keep_every", every, f"0 or a multiple of save_interval ({interval})")
    _check_warmup(config)
    _check_decay(config)
    is_time = bool(_DURATION.fullmatch(config.max_time))
    require(is_time, "max_time", config.max_time, "minutes or hh:mm:ss")
    if config.rollback and config.resume != "auto":
        raise ConfigurationError(
            f"rollback chooses the checkpoint, resume is {config.resume}; leave one of them out"
        )
    if config.carry_moments and not config.init_from:
        raise ConfigurationError(
            "carry_moments is set without init_from; name the checkpoint whose moments to take"
        )


def _check_warmup(config: Any) -> None:
    _check_share(config, "warmup")
    is_long = config.num_warmup_steps <= config.max_steps
    expected = f"between 0 and max_steps ({config.max_steps})"
    require(is_long, "warmup_steps", config.num_warmup_steps, expected)


def _check_share(config: Any, part: str) -> None:
    """Steps, or their share of all steps, or neither."""
    steps, share = getattr(config, f"{part}_steps"), getattr(config, f"{part}_proportion")
    if steps is not None and share is not None:
        raise ConfigurationError(
            f"{part}_steps ({steps}) and {part}_proportion ({share}) are both given; give one"
        )
    require(steps is None or steps >= 0, f"{part}_steps", steps, "0 or more")
    is_share = share is None or 0 <= share <= 1
    require(is_share, f"{part}_proportion", share, "between 0 and 1")


def _check_decay(config: Any) -> None:
    for name in ("warmup_min_ratio", "min_lr_ratio"):
        value = getattr(config, name)
        require(0 <= value <= 1, name, value, "between 0 and 1")
    for name in ("warmup_power", "lr_power", "decay_rate", "decay_step"):
        value = getattr(config, name)
        require(value is None or value > 0, name, value, "above 0")
    kind = config.lr_scheduler_type
    for name in ("decay_rate", "decay_step"):
        value, is_exponential = getattr(config, name), kind == "exponential"
        expected = f"{'a number' if is_exponential else 'nothing'} for {kind}"
        require((value is not None) == is_exponential, name, value, expected)
    _check_share(config, "decay")
    for name in ("decay_steps", "decay_proportion", "decay_from"):
        value = getattr(config, name)
        require(value is None or kind == "wsd", name, value, f"nothing for {kind}")
    if kind == "wsd" and config.decay_steps is None and config.decay_proportion is None:
        raise ConfigurationError(
            "wsd: neither decay_steps nor decay_proportion; give one (decay_steps 0: never, "
            "for a run that branches decay from)"
        )
    if config.decay_from is not None:
        require(bool(config.decay_steps), "decay_steps", config.decay_steps, "above 0 (decay_from)")
        require(config.resume == "auto", "resume", config.resume, "auto (decay_from)")
    elif config.num_warmup_steps + config.num_decay_steps > config.max_steps:
        raise ConfigurationError(
            f"warm-up ({config.num_warmup_steps}) and decay ({config.num_decay_steps}) are longer "
            f"than max_steps ({config.max_steps}); make one of them shorter"
        )


def check_type(name: str, value: Any, annotation: Any) -> None:
    """Refuse the value of a setting that is not of its type, or not one of its literals.

    Raises:
        ConfigurationError: what was found and expected.
    """
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        require(value in choices, name, value, f"one of {', '.join(choices)}")
        return
    kinds = typing.get_args(annotation) or (annotation,)
    number = isinstance(value, int) and not isinstance(value, bool) and float in kinds
    wrong_bool = isinstance(value, bool) and bool not in kinds
    wanted = " or ".join("nothing" if k is type(None) else k.__name__ for k in kinds)
    require(not wrong_bool and (isinstance(value, kinds) or number), name, value, wanted)
    if isinstance(value, float):
        require(math.isfinite(value), name, value, "a finite number")
