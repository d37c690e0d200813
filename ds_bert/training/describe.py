"""A plan for a person, and for the record of the run."""

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from ds_bert import distributed
from ds_bert.checkpoint.facts import DECAY_START, EMA_DECAY, layout
from ds_bert.checkpoint.folder import Checkpoint
from ds_bert.config import TrainingConfig
from ds_bert.costs.interval import DAY, best_interval, copy_seconds, save_seconds
from ds_bert.instances.collate import sequence_lengths
from ds_bert.model import pretrained
from ds_bert.trackers.names import resolve
from ds_bert.training.deepspeed_config import precision, zero_stage
from ds_bert.training.plan import Plan

_SAMPLE = 4096  # sequences whose lengths are looked at


def describe(plan: Plan) -> str:
    """The plan for a person, one fact a line."""
    config, table = plan.config, plan.train_table
    num_rows = len(table.rows)
    samples = plan.batch.ramp.samples_after(config.max_steps)
    validation = plan.validation_table
    start = "random weights" if pretrained.is_random_weights(config.model) else config.model
    if config.init_from:
        start = f"weights of {config.init_from}" + (" and its moments" * config.carry_moments)
    if plan.resume_from:
        is_other = config.decay_from and DECAY_START not in plan.resume_from.facts
        verb = "decay from" if is_other else "resume from"
        start = f"{verb} {plan.resume_from.folder}{_before(plan, plan.resume_from)}"
    epochs = "" if plan.order.is_mixed else f" = {samples / num_rows:.2f} epochs"
    corpora = "; ".join(plan.order.describe(samples, table.corpora))
    rows = {"recipe": config.description} if config.description else {}
    rows |= {
        "model": f"{config.model}, {plan.num_parameters:,} parameters",
        "start": start,
        "objective": config.objective,
        "train data": f"{config.train_data}: {num_rows:,} instances of up to "
        f"{config.max_seq_length} tokens, {len(table.store.tokens):,} tokens of text",
        "validation data": f"{config.validation_data}: {len(validation.rows):,} instances"
        if validation
        else "none",
        **({"local data": _local_data(plan)} if config.local_data else {}),
        **({"corpora": corpora} if corpora else {}),
        "masks": "stored in the data set" if table.masks else str(plan.masks),
        "batch": f"train_batch_size {plan.batch.train_batch_size:,}, micro-batch to be measured"
        if plan.micro_batch_is_open
        else str(plan.batch),
        "steps": f"{config.max_steps:,} = {samples:,} sequences{epochs}, about "
        f"{_num_tokens(plan, samples):,.0f} tokens",
        "schedule": _schedule(config),
        "optimizer": f"{plan.optimizer['type']}, {_options(plan)}, {_clipping(plan)}",
        "precision": _precision(plan),
        **({"average": _average(plan)} if config.ema_decay else {}),
        "checkpoint": f"about {plan.checkpoint_size.disk / 1e6:,.0f} MB each, "
        f"{config.keep_checkpoints} kept in {config.output_dir}/checkpoints{_beside(plan)}",
        "saving": _saving(plan),
        "trackers": _trackers(config),
    }
    return "\n".join(f"{name:>16}: {text}" for name, text in rows.items())


def _num_tokens(plan: Plan, num_samples: int) -> float:
    """Tokens without padding of a run, to three digits: from samples all over it."""
    samples = np.linspace(0, num_samples - 1, min(num_samples, _SAMPLE)).astype(np.int64)
    lengths = sequence_lengths(plan.train_table, plan.order.locate(samples)[0])
    return float(f"{lengths.mean() * num_samples:.3g}")


def _local_data(plan: Plan) -> str:
    if plan.config.dry_run:
        return f"to be copied to {plan.config.local_data} on each host"
    return str(plan.train_table.store.folder)


def _before(plan: Plan, checkpoint: Checkpoint) -> str:
    """How a checkpoint lies that has to be cut anew; nothing where it is as in this run."""
    before, now = layout(checkpoint.facts), layout(plan.facts)
    return f", of {before}, for {now}" * (before != now)


def _beside(plan: Plan) -> str:
    """How checkpoints are written, where that is beside training."""
    copied = f", written beside training from a copy of {plan.checkpoint_size.copy / 1e6:,.0f} MB"
    return copied * plan.config.async_save


def _saving(plan: Plan) -> str:
    """How often is best (docs/scaling.md), for hosts that fail often and for such that do not."""
    if plan.config.async_save:
        save = copy_seconds(plan.checkpoint_size.copy)
    else:
        save = save_seconds(plan.checkpoint_size.disk)
    hosts = max(1, plan.batch.world_size // distributed.ranks_on_this_machine())
    often, seldom = (best_interval(save, days * DAY / hosts) / 60 for days in (1, 30))
    return (
        f"best every {often:,.0f} minutes if a host fails once a day, {seldom:,.0f} if once a "
        f"month ({hosts} host{'s' * (hosts > 1)}, {save:,.1f} s a save)"
    )


def _trackers(config: TrainingConfig) -> str:
    names = resolve(config.report_to) if distributed.rank() == 0 else []  # only it needs them
    return ", ".join(names) or "none"


def _schedule(config: TrainingConfig) -> str:
    """Its form, and whatever differs from the defaults."""
    parts = [f"{config.lr_scheduler_type}, warm-up {config.num_warmup_steps:,} steps"]
    usual = {item.name: item.default for item in fields(config)} | {"decay_steps": 0}
    for name, value in config.schedule.items():
        if name not in ("lr_scheduler_type", "max_steps", "warmup_steps") and value != usual[name]:
            parts.append(f"{name} {value}")
    return ", ".join(parts)


def _options(plan: Plan) -> str:
    set_ones = {k: v for k, v in plan.optimizer["params"].items() if v is not None}
    return ", ".join(f"{name} {value}" for name, value in set_ones.items())


def _average(plan: Plan) -> str:
    decay, start = plan.config.ema_decay, plan.resume_from
    text = f"moving average of the weights, decay {decay:g} (about {1 / (1 - decay):,.0f} steps)"
    is_new = start is not None and EMA_DECAY not in start.facts
    return text + ", begun here" * is_new


def _clipping(plan: Plan) -> str:
    limit = plan.engine_config["gradient_clipping"]
    return f"gradients clipped at {limit:g}" if limit else "gradients not clipped"


def _precision(plan: Plan) -> str:
    kind = precision(plan.engine_config)
    text = f"{kind}, ZeRO stage {zero_stage(plan.engine_config)}"
    if kind == "fp16" and distributed.local_device().type == "cpu":
        text += "; slow if this CPU has no fp16 instructions, bf16 and fp32 are not"
    return text


def as_record(plan: Plan) -> dict[str, Any]:
    """The resolved configuration as plain JSON values."""
    batch = asdict(plan.batch)
    del batch["ramp"]  # as batch_ramp says
    return {
        "ds_bert": asdict(plan.config),
        "deepspeed": plan.engine_config,
        "optimizer": plan.optimizer,
        "batch": batch,
        "model_config": plan.model_config.to_diff_dict(),
        "num_parameters": plan.num_parameters,
        "facts": plan.facts,
    }


# Paths, which may differ between hosts; what they lead to is compared.
_PATHS = {"model", "train_data", "validation_data", "local_data", "output_dir"}
_PATHS |= {"resume", "init_from", "decay_from"}


def what_all_compute(plan: Plan) -> dict[str, Any]:
    """What has to be the same on all ranks, as plain values by name."""
    config = {name: value for name, value in asdict(plan.config).items() if name not in _PATHS}
    validation = plan.validation_table
    return {
        **plan.facts,
        **config,
        "recipe": plan.recipe,
        "model_config": plan.model_config.to_diff_dict(),
        "validation_data": validation.store.fingerprint if validation is not None else None,
        "checkpoint": plan.resume_from.step if plan.resume_from is not None else None,
        "init_from": plan.init_folder is not None,
    }
