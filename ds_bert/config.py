"""The typed configuration of a training run: defaults < JSON file < command line.

One recipe is one JSON file: DeepSpeed's own keys at the top level (checked in `engine_config`)
and a section "ds_bert" with the fields of `TrainingConfig`. Neither torch nor DeepSpeed is
imported here, so `--help` and configuration errors come at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ds_bert.limits.training import check

SECTION = "ds_bert"
MICRO_BATCH = "train_micro_batch_size_per_gpu"  # DeepSpeed's key; the only one with a flag
WEIGHTS = LAST, EMA = "last", "ema"  # of a checkpoint: those of its step, or their moving average


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
    ema_decay: float = option(
        0.0, "decay of a moving average of the weights, kept beside them; 0: none"
    )
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
    batch_ramp: str | None = option(
        None,
        "START,INCREMENT,SAMPLES: the batch begins with START sequences and grows by INCREMENT to "
        "train_batch_size within so many; default: train_batch_size from the first step on",
    )
    packed: bool = option(
        False, "deal sequences out so that micro-batches have nearly the same number of tokens"
    )
    constant_shapes: bool = option(
        False, "packed, and every micro-batch padded to one shape, a little more than the average"
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
        check(self)

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
