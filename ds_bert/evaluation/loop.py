"""Metrics of a model on a data set, the same numbers every time."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from ds_bert import distributed
from ds_bert.dataset.store import InstanceTable
from ds_bert.evaluation.metrics import MetricSums
from ds_bert.model.batch import Batch, make_batch
from ds_bert.model.bert import UnpaddedBert
from ds_bert.progress import Progress
from ds_bert.rng.streams import permuted

EVALUATION_SEED = 20190524  # masks and sample are fixed: not the run's seed, not its epoch


@torch.no_grad()
def evaluate(
    model: UnpaddedBert,
    table: InstanceTable,
    device: torch.device,
    batch_size: int,
    max_sequences: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Evaluate over all ranks with fixed masks and without dropout.

    Args:
        model: on `device`; its training mode is restored afterwards.
        table: instances of one sequence length.
        device: where the batches go.
        batch_size: sequences per forward pass and rank; changes nothing but the speed.
        max_sequences: evaluate on at most this many (always the same ones); 0: all.
        progress: tell on rank 0 how far it is.

    Returns:
        see `MetricSums.over_ranks`.
    """
    num_sequences = min(max_sequences or len(table), len(table))
    batches = evaluation_batches(
        table,
        micro_batch_size=batch_size,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        seed=EVALUATION_SEED,
        max_sequences=num_sequences,
    )
    sums = MetricSums(model.losses, device)
    was_training = model.training
    model.eval()
    is_told = progress and distributed.rank() == 0
    with Progress("evaluate") if is_told else nullcontext() as told:
        mine = len(range(distributed.rank(), num_sequences, distributed.world_size()))
        done = 0
        for batch in batches:
            sums.add(model(batch.to(device)), batch.counts)
            done += batch.num_sequences
            if told is not None:
                told.update(done / mine, sequences=batch.num_sequences)
    model.train(was_training)
    return sums.over_ranks()


def evaluation_batches(
    table: InstanceTable,
    *,
    micro_batch_size: int,
    rank: int,
    world_size: int,
    seed: int,
    max_sequences: int | None = None,
) -> Iterator[Batch]:
    """A rank's batches of a fixed set of sequences with fixed masks.

    Args:
        table: instances of one sequence length.
        micro_batch_size: sequences of a batch.
        rank: this process.
        world_size: number of ranks.
        seed: of the choice of sequences and of the masks.
        max_sequences: take this many, chosen by the seed; None: all.
    """
    num_sequences = min(max_sequences or len(table), len(table))
    mine = np.arange(rank, num_sequences, world_size)
    for start in range(0, len(mine), micro_batch_size):
        indices = permuted(mine[start : start + micro_batch_size], len(table), seed, 0)
        yield make_batch(table, indices, np.zeros_like(indices), seed)
