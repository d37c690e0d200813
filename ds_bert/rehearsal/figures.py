"""A plan as the plain numbers that its cost follows from."""

from typing import NamedTuple

import numpy as np

from ds_bert import distributed
from ds_bert.costs.gpus import GPUs
from ds_bert.costs.hours import Work
from ds_bert.costs.interval import copy_seconds, save_seconds
from ds_bert.costs.memory import Rank
from ds_bert.instances.collate import count_masked_tokens, sequence_lengths
from ds_bert.model.batch import SEQUENCES
from ds_bert.model.flops import training_flops
from ds_bert.model.pretrained import SHAPE_FIELDS
from ds_bert.training.deepspeed_config import has_fp32_sums, precision, zero_stage
from ds_bert.training.plan import Plan

_SAMPLE = 4096  # of the run's first sequences
_BUCKET = 500_000_000  # elements; DeepSpeed's default of reduce_bucket_size


class Sample(NamedTuple):
    """Averages of a sequence of the run."""

    tokens: float
    masked: float
    flops: float


def sample(plan: Plan) -> Sample:
    """Counted over the run's first sequences."""
    table = plan.train_table
    rows, epochs = plan.order.locate(np.arange(min(_SAMPLE, max(1, len(table)))))
    lengths = sequence_lengths(table, rows)
    masked = count_masked_tokens(table, rows, epochs, plan.config.seed, plan.masks.most)
    pools = SEQUENCES in plan.model_class.losses.values()
    flops = training_flops(plan.model_config, lengths.tolist(), masked, pools)
    return Sample(float(lengths.mean()), masked / len(rows), flops / len(rows))


def work_of(plan: Plan, average: Sample) -> Work:
    """What the run does."""
    config, validation = plan.config, plan.validation_table
    rows = len(validation.rows) if validation is not None else 0
    is_beside = config.async_save
    size, full = plan.checkpoint_size, plan.batch.train_batch_size
    save = copy_seconds(size.copy) if is_beside else save_seconds(size.disk)
    return Work(
        max_steps=config.max_steps,
        warmup_steps=config.num_warmup_steps,
        train_batch_size=full,
        flops=average.flops,
        tokens=average.tokens,
        max_seq_length=config.max_seq_length,
        num_rows=len(plan.train_table),
        eval_sequences=min(rows, config.max_eval_sequences or rows),
        eval_interval=config.eval_interval,
        save_interval=config.save_interval,
        save_seconds=save,
        max_seconds=config.max_seconds,
        fewer=config.max_steps * full - plan.batch.ramp.samples_after(config.max_steps),
    )


def rank_of(plan: Plan, average: Sample, gpus: GPUs | None, micro_batch_size: int) -> Rank:
    """One rank of the run here, or on other GPUs."""
    config, engine = plan.config, plan.engine_config
    is_gpu = gpus is not None or distributed.local_device().type == "cuda"
    saves_beside = config.async_save and 0 < config.save_interval < config.max_steps
    zero = engine["zero_optimization"]
    return Rank(
        model={name: getattr(plan.model_config, name) for name in SHAPE_FIELDS},
        num_parameters=plan.num_parameters,
        precision=precision(engine),
        sums_in_fp32=has_fp32_sums(engine),
        stage=zero_stage(engine),
        world_size=gpus.number if gpus else plan.batch.world_size,
        state_bytes=plan.optimizer_entry.state_bytes,
        average_bytes=plan.average_bytes,
        bucket_elements=zero.get("reduce_bucket_size", _BUCKET),
        micro_batch_size=micro_batch_size,
        eval_batch_size=config.eval_batch_size if plan.validation_table is not None else 0,
        max_seq_length=config.max_seq_length,
        masked_share=average.masked / average.tokens,
        is_gpu=is_gpu,
        copy_bytes=plan.checkpoint_size.copy if saves_beside else 0,
    )
