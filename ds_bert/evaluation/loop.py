"""Metrics of a model on a data set, the same numbers every time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ds_bert import distributed
from ds_bert.dataset.format import Corpus
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
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Evaluate over all ranks with fixed masks and without dropout.

    Args:
        model: on `device`; its training mode is restored afterwards.
        table: instances of one sequence length.
        device: where the batches go.
        batch_size: sequences per forward pass and rank; changes nothing but the speed.
        max_sequences: evaluate on at most this many (always the same ones); 0: all.
        poll: called by all ranks between batches, equally often; may raise, on all.

    Returns:
        see `MetricSums.over_ranks`.
    """
    corpora = chosen_rows(table, max_sequences)
    sums = MetricSums(model.losses, device, [corpus.name for corpus in table.corpora])
    rank, world_size = distributed.rank(), distributed.world_size()
    with evaluating(model):
        for number, (corpus, num_sequences) in enumerate(corpora):
            rows = np.arange(rank, num_sequences, world_size)
            of_all = num_sequences // world_size // batch_size  # batches that every rank has
            batches = batches_at(table, corpus, rows, batch_size, EVALUATION_SEED)
            for count, (_, batch) in enumerate(batches):
                sums.add(model(batch.to(device)), batch.counts, number)
                if count < of_all:
                    poll()
    return sums.over_ranks()


@contextmanager
def evaluating(model: UnpaddedBert) -> Iterator[None]:
    """No dropout inside of the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def chosen_rows(table: InstanceTable, max_sequences: int) -> list[tuple[Corpus, int]]:
    """The corpora of a table, or the table as one, and how many rows of each are evaluated.

    Args:
        table: instances of one sequence length.
        max_sequences: at most so many of all, of each corpus in proportion to its size; 0: all.
    """
    corpora = table.corpora or (Corpus("", None, 0, len(table)),)
    wanted = min(max_sequences or len(table), len(table))
    ends = [corpus.last * wanted // len(table) for corpus in corpora]
    return list(zip(corpora, np.diff(ends, prepend=0).tolist(), strict=True))


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
    for corpus, num_sequences in chosen_rows(table, max_sequences or 0):
        rows = np.arange(rank, num_sequences, world_size)
        for _, batch in batches_at(table, corpus, rows, micro_batch_size, seed):
            yield batch


def batches_at(
    table: InstanceTable, corpus: Corpus, places: NDArray[np.int64], size: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """Rows, and the batch of them, at some places of a corpus' random order.

    Args:
        table: instances of one sequence length.
        corpus: some of its rows.
        places: int64 [N], each in [0, corpus.size).
        size: sequences of a batch.
        seed: of the order and of the masks.
    """
    for start in range(0, len(places), size):
        rows = corpus.first + permuted(places[start : start + size], corpus.size, seed, 0)
        yield rows, make_batch(table, rows, np.zeros_like(rows), seed)
