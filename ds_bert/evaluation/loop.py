"""Metrics of a model on a data set, the same numbers every time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ds_bert import distributed
from ds_bert.dataset.store import InstanceTable
from ds_bert.evaluation.metrics import MetricSums
from ds_bert.model.batch import Batch, make_batch
from ds_bert.model.bert import UnpaddedBert
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
        progress: show a progress bar on rank 0.

    Returns:
        see `MetricSums.over_ranks`.
    """
    batches = evaluation_batches(
        table,
        micro_batch_size=batch_size,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        seed=EVALUATION_SEED,
        max_sequences=max_sequences or None,
    )
    sums = MetricSums(model.losses, device)
    was_training = model.training
    model.eval()
    for batch in _with_bar(batches, table, batch_size, max_sequences, progress):
        sums.add(model(batch.to(device)), batch.counts)
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


def _with_bar(batches, table, batch_size: int, max_sequences: int, progress: bool):
    if not progress or distributed.rank() != 0:
        return batches
    from tqdm import tqdm

    num_sequences = min(max_sequences or len(table.rows), len(table.rows))
    total = -(-num_sequences // (batch_size * distributed.world_size()))
    return tqdm(batches, total=total, desc="evaluate", unit="batch", disable=None)
