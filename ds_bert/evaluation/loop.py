"""Metrics of a model on a data set, the same numbers every time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Evaluate over all ranks with fixed masks and without dropout.

    Args:
        model: on `device`; its training mode is restored afterwards.
        table: instances of one sequence length.
        device: where the batches go.
        batch_size: sequences per forward pass and rank; changes nothing but the speed.
        max_sequences: evaluate on at most this many (always the same ones); 0: all.
        progress: tell on rank 0 how far it is.
        poll: called by all ranks between batches, equally often; may raise, on all.

    Returns:
        see `MetricSums.over_ranks`.
    """
    corpora = chosen_rows(table, max_sequences)
    sums = MetricSums(model.losses, device, [corpus.name for corpus in table.corpora])
    rank, world_size = distributed.rank(), distributed.world_size()
    mine = sum(len(range(rank, number, world_size)) for _, number in corpora)
    is_told, done = progress and rank == 0, 0
    with _evaluating(model), Progress("evaluate") if is_told else nullcontext() as told:
        for number, (corpus, num_sequences) in enumerate(corpora):
            rows = np.arange(rank, num_sequences, world_size)
            of_all = num_sequences // world_size // batch_size  # batches that every rank has
            batches = _batches(table, corpus, rows, batch_size, EVALUATION_SEED)
            for count, batch in enumerate(batches):
                sums.add(model(batch.to(device)), batch.counts, number)
                if count < of_all:
                    poll()
                done += batch.num_sequences
                if told is not None:
                    told.update(done / mine, sequences=batch.num_sequences)
    return sums.over_ranks()


@contextmanager
def _evaluating(model: UnpaddedBert) -> Iterator[None]:
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
        yield from _batches(table, corpus, rows, micro_batch_size, seed)


def _batches(
    table: InstanceTable, corpus: Corpus, places: NDArray[np.int64], size: int, seed: int
) -> Iterator[Batch]:
    """Batches of the rows at some places of a corpus' random order."""
    for start in range(0, len(places), size):
        order = permuted(places[start : start + size], corpus.size, seed, 0)
        indices = corpus.first + order
        yield make_batch(table, indices, np.zeros_like(indices), seed)
