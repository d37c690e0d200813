"""The typed configuration of a training run: defaults < JSON file < command line.

One recipe is one JSON file: DeepSpeed's own keys at the top level (checked in `engine_config`)
and a section "ds_bert" with the fields of `TrainingConfig`. Neither torch nor DeepSpeed is
imported here, so `--help` and configuration errors come at once.
"""

import math
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ds_bert.errors import ConfigurationError, require

SECTION = "ds_bert"
MAX_MICRO_BATCH = 2**15  # sequences: the tokens of a batch are counted in 32 bits
_DURATION = re.compile(r"|[0-9]+(\.[0-9]+)?|[0-9]+:[0-5]?[0-9]:[0-5]?[0-9]")
MICRO_BATCH = "train_micro_batch_size_per_gpu"  # DeepSpeed's key; the only one with a flag


def option(default: Any, text: str, aliases: Iterable[str] = (), **flag: Any) -> Any:
    """A dataclass field that is also a flag of a command.

    Args:
        default: value of the field and of the flag.
        text: the flag's help.
        aliases: other spellings of the flag.
        flag: what else argparse's `add_argument` is given, such as metavar or choices. The flags of
            `TrainingConfig` are made by HfArgumentParser, others by `commands.parser.add_flags`.
    """
    metadata: dict[str, Any] = {"help": text, **flag}
    if aliases:
        metadata["aliases"] = list(aliases)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything a run needs besides DeepSpeed's own keys; every field is also a flag.

    Raises:
        ConfigurationError: a value is of the wrong type, out of range or contradicts another.
    """

    model: str = option(
        "bert-base",
        "preset with random weights (bert-tiny, bert-mini, bert-base, bert-large), a config.json "
        "(random weights), or a Hugging Face folder or id (its weights)",
    )
    objective: str = option(
        "mlm+nsp", "mlm+nsp, mlm+sop (sentence order) or mlm (alone): as the data are made for"
    )
    train_data: str = option("data/train", "data set folder made by scripts/preprocess.py")
    validation_data: str = option("data/validation", 'data set folder, "" for no validation')
    local_data: str = option("", 'folder on each host\'s own disk, to copy the data to; "": none')
    output_dir: str = option("runs/default", "folder of this run")
    max_seq_length: int = option(128, "which instances of the data set to train on, tokens")
    max_steps: int = option(10_000, "optimizer steps in all; the schedule ends there")
    lr_scheduler_type: Literal[
        "linear", "poly", "google", "constant", "cosine", "exponential", "wsd"
    ] = option("linear", "learning rate schedule (docs/training.md)")
    warmup_steps: int | None = option(None, "optimizer steps of warm-up")
    warmup_proportion: float | None = option(None, "warm-up as a share of max_steps, 0 to 1")
    warmup_type: Literal["linear", "log"] = option("linear", "form of the warm-up")
    warmup_power: float = option(1.0, "exponent of the warm-up")
    warmup_min_ratio: float = option(0.0, "rate at which the warm-up starts, by the peak rate")
    lr_power: float | None = option(None, "exponent of the decay; default: 0.5 for poly, else 1")
    min_lr_ratio: float = option(0.0, "rate at which the decay ends, by the peak rate")
    decay_rate: float | None = option(None, "exponential: factor of the rate in decay_step steps")
    decay_step: int | None = option(None, "exponential: optimizer steps of that factor")
    decay_steps: int | None = option(None, "wsd: optimizer steps of the decay at the end")
    decay_proportion: float | None = option(None, "wsd: the decay as a share of max_steps, 0 to 1")
    decay_type: Literal["1-sqrt", "linear", "cosine"] = option("1-sqrt", "wsd: form of the decay")
    masking: Literal["dynamic", "static"] = option(
        "dynamic", "new masks every epoch, or the same masks in every epoch"
    )
    masked_lm_prob: float | None = option(None, "share of tokens to mask; default: the data set's")
    masked_lm_prob_end: float | None = option(
        None, "share in the last step, in equal steps from masked_lm_prob; default: the same"
    )
    max_predictions_per_seq: int | None = option(
        None, "masked tokens of a sequence at most; default: the data set's, scaled with the share"
    )
    do_whole_word_mask: bool | None = option(
        None, "mask all pieces of a word or none; default: the data set's"
    )
    masking_unit: str | None = option(
        None, "mask piece, word, ngram (1 to 3 words) or span (1 to 10); default: the data set's"
    )
    mask_replace_prob: float | None = option(
        None, "share of the masked tokens shown as [MASK]; default 0.8"
    )
    random_replace_prob: float | None = option(
        None, "share of the masked tokens shown as a random token; default 0.1"
    )
    corpus_weights: str | None = option(
        None,
        "shares of the samples for the corpora of the data set, such as en=2,de=1; size: each row "
        "once in an epoch; default: the data set's",
    )
    seed: int = option(42, "seed of weights, dropout, sample order and masks")
    log_interval: int = option(10, "optimizer steps between two lines of the log")
    report_to: str = option("auto", "tensorboard, wandb, trackio, mlflow, with commas; or none")
    report_seconds: float = option(60.0, "seconds between two writings of report.html; 0: none")
    eval_interval: int = option(500, "optimizer steps between two validations; 0: only at the end")
    eval_batch_size: int = option(32, "sequences per forward pass of a validation, per rank")
    max_eval_sequences: int = option(
        10_000, "validate on at most this many sequences (always the same ones); 0: on all"
    )
    save_interval: int = option(500, "optimizer steps between two checkpoints; 0: only at the end")
    save_minutes: float = option(0.0, "save also so long after the last save; 0: by steps only")
    async_save: bool = option(True, "write checkpoints beside training, from copies in memory")
    keep_checkpoints: int = option(3, "keep the newest this many checkpoints, at least 2")
    keep_every: int = option(
        0, "keep the checkpoints of every this many steps for ever; 0: none for that reason"
    )
    max_consecutive_skips: int = option(
        10, "stop after this many steps in a row with non-finite gradients"
    )
    max_loss_spike: float = option(
        4.0,
        "stop where the loss of 5 intervals of the log in a row is this many nats above the lowest "
        "one; 0: never",
    )
    watchdog_seconds: int = option(
        600, "end the run where a rank makes no progress for so long; 0: wait for ever"
    )
    check_interval: int = option(
        100, "optimizer steps between two checks that all ranks hold the same weights; 0: never"
    )
    max_time: str = option(
        "", 'minutes or hh:mm:ss of this process, by which it has saved and stopped; "": no limit'
    )
    decay_from: str | None = option(
        None, "wsd: go on from this checkpoint of another run, and end after decay_steps"
    )
    resume: str = option(
        "auto",
        "auto: go on from the newest good checkpoint of output_dir; none: start anew; "
        "or a checkpoint folder",
    )
    rollback: bool = option(
        False,
        "after a divergence: go back to the last checkpoint before it and leave its samples out",
    )
    init_from: str | None = option(
        None, "start from the weights of this run, checkpoint or Hugging Face folder"
    )
    carry_moments: bool = option(
        False, "with init_from: take the optimizer's moments of that checkpoint as well"
    )
    packed: bool = option(
        False, "deal sequences out so that micro-batches have nearly the same number of tokens"
    )
    elastic_batch: bool = option(
        False, "train_micro_batch_size_per_gpu is a limit: the largest size that fits the ranks"
    )
    compile_layers: Literal["auto", "on", "off"] = option(
        "auto", "fuse each layer's element-wise work with torch.compile; auto: on a GPU"
    )
    fp8: bool = option(
        False, "run the layers' matrix products in fp8 (bf16 recipes on Ada, Hopper and later)"
    )
    description: str = option("", "what the recipe is, in words; told in the plan and the record")
    dry_run: bool = option(False, "check everything and print the plan without training")

    def __post_init__(self):
        # Not the fields' own types: HfArgumentParser rewrites those of optional fields.
        for name, annotation in typing.get_type_hints(type(self)).items():
            check_type(name, getattr(self, name), annotation)
        positive = ("max_seq_length", "max_steps", "log_interval", "eval_batch_size")
        for name in (*positive, "max_consecutive_skips"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.max_steps <= 10**9, "max_steps", self.max_steps, "at most 1,000,000,000")
        size = self.eval_batch_size
        require(size <= MAX_MICRO_BATCH, "eval_batch_size", size, f"at most {MAX_MICRO_BATCH:,}")
        require(self.seed < 2**63, "seed", self.seed, "below 2**63")
        or_none = ("eval_interval", "save_interval", "check_interval", "report_seconds")
        for name in (*or_none, "save_minutes", "max_eval_sequences", "max_loss_spike", "seed"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        is_clear = self.watchdog_seconds == 0 or self.watchdog_seconds >= 10
        require(is_clear, "watchdog_seconds", self.watchdog_seconds, "0 or at least 10")
        require(self.keep_checkpoints >= 2, "keep_checkpoints", self.keep_checkpoints, ">= 2")
        every, interval = self.keep_every, self.save_interval
        is_saved = every == 0 or (every > 0 and interval > 0 and every % interval == 0)
        require(is_saved, "keep_every", every, f"0 or a multiple of save_interval ({interval})")
        self._check_warmup()
        self._check_decay()
        is_time = bool(_DURATION.fullmatch(self.max_time))
        require(is_time, "max_time", self.max_time, "minutes or hh:mm:ss")
        if self.rollback and self.resume != "auto":
            raise ConfigurationError(
                f"rollback chooses the checkpoint, resume is {self.resume}; leave one of them out"
            )
        if self.carry_moments and not self.init_from:
            raise ConfigurationError(
                "carry_moments is set without init_from; name the checkpoint whose moments to take"
            )

    def _check_warmup(self) -> None:
        self._check_share("warmup")
        is_long = self.num_warmup_steps <= self.max_steps
        expected = f"between 0 and max_steps ({self.max_steps})"
        require(is_long, "warmup_steps", self.num_warmup_steps, expected)

    def _check_share(self, part: str) -> None:
        """Steps, or their share of all steps, or neither."""
        steps, share = getattr(self, f"{part}_steps"), getattr(self, f"{part}_proportion")
        if steps is not None and share is not None:
            raise ConfigurationError(
                f"{part}_steps ({steps}) and {part}_proportion ({share}) are both given; give one"
            )
        require(steps is None or steps >= 0, f"{part}_steps", steps, "0 or more")
        is_share = share is None or 0 <= share <= 1
        require(is_share, f"{part}_proportion", share, "between 0 and 1")

    def _check_decay(self) -> None:
        for name in ("warmup_min_ratio", "min_lr_ratio"):
            value = getattr(self, name)
            require(0 <= value <= 1, name, value, "between 0 and 1")
        for name in ("warmup_power", "lr_power", "decay_rate", "decay_step"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "above 0")
        kind = self.lr_scheduler_type
        for name in ("decay_rate", "decay_step"):
            value, is_exponential = getattr(self, name), kind == "exponential"
            expected = f"{'a number' if is_exponential else 'nothing'} for {kind}"
            require((value is not None) == is_exponential, name, value, expected)
        self._check_share("decay")
        for name in ("decay_steps", "decay_proportion", "decay_from"):
            value = getattr(self, name)
            require(value is None or kind == "wsd", name, value, f"nothing for {kind}")
        if kind == "wsd" and self.decay_steps is None and self.decay_proportion is None:
            raise ConfigurationError(
                "wsd: neither decay_steps nor decay_proportion; give one (decay_steps 0: never, "
                "for a run that branches decay from)"
            )
        if self.decay_from is not None:
            require(bool(self.decay_steps), "decay_steps", self.decay_steps, "above 0 (decay_from)")
            require(self.resume == "auto", "resume", self.resume, "auto (decay_from)")
        elif self.num_warmup_steps + self.num_decay_steps > self.max_steps:
            raise ConfigurationError(
                f"warm-up ({self.num_warmup_steps}) and decay ({self.num_decay_steps}) are longer "
                f"than max_steps ({self.max_steps}); make one of them shorter"
            )

    @property
    def max_seconds(self) -> float | None:
        """`max_time` in seconds; None: no limit."""
        parts = [float(part) for part in self.max_time.split(":") if part]
        hours, minutes, seconds = parts if len(parts) == 3 else (0.0, *(parts or [0.0]), 0.0)
        return 3600 * hours + 60 * minutes + seconds or None

    @property
    def schedule(self) -> dict[str, Any]:
        """The learning rate's course: arguments of `ds_bert.optim.schedules.Shape`."""
        names = [
            *("lr_scheduler_type", "max_steps", "warmup_type", "warmup_power", "warmup_min_ratio"),
            *("lr_power", "min_lr_ratio", "decay_rate", "decay_step", "decay_type"),
        ]
        course = {name: getattr(self, name) for name in names}
        steps = {"warmup_steps": self.num_warmup_steps, "decay_steps": self.num_decay_steps}
        return course | steps

    @property
    def num_warmup_steps(self) -> int:
        """Optimizer steps of warm-up, whichever way they were given."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round((self.warmup_proportion or 0.0) * self.max_steps)

    @property
    def num_decay_steps(self) -> int:
        """Optimizer steps of wsd's decay, whichever way they were given."""
        if self.decay_steps is not None:
            return self.decay_steps
        return round((self.decay_proportion or 0.0) * self.max_steps)


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
