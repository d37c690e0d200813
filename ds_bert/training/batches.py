"""The data of each training step: which sequences, in which order, on which rank.

Which row sample p of a run is follows from p alone (`ds_bert.instances.mixture`). So the position
in the data is one number, the same for any number of ranks, and no order is ever stored. Samples
that a run leaves out are passed over, so steps and samples are counted apart.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ds_bert import distributed
from ds_bert.batching.ramp import BatchRamp
from ds_bert.dataset.store import InstanceTable
from ds_bert.divergence.left_out import NOTHING, LeftOut
from ds_bert.instances.collate import count_masked_tokens, sequence_lengths
from ds_bert.instances.mixture import SampleOrder
from ds_bert.model.batch import MASKED_TOKENS, SEQUENCES, Batch, make_batch
from ds_bert.training.masks import MaskSchedule
from ds_bert.training.plan import Plan

_STEPS_AHEAD = 2
_SHAPE_STEP = 128  # tokens; packed batches then have few shapes


class Step(NamedTuple):
    """What one rank works on in one optimizer step.

    Attributes:
        micro_batches: the batches of this rank, one for each accumulation step.
        counts: of the step over all ranks, those that losses are divided by; see `Batch.counts`.
        first_sample: of the step over all ranks.
        rows: int64 [micro-batches, micro_batch_size], rows of the table.
        epochs: int64, likewise: those that the masks are made for.
    """

    micro_batches: list[Batch]
    counts: dict[str, int]
    first_sample: int
    rows: NDArray[np.int64]
    epochs: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TrainingBatches:
    """The steps of a run for one rank.

    Attributes:
        table: instances of one sequence length.
        train_batch_size: sequences of a step over all ranks, a multiple of
            micro_batch_size x world_size.
        micro_batch_size: sequences of a batch.
        rank: this process.
        world_size: number of ranks.
        seed: of the order and the masks.
        masking: "dynamic" for new masks in every epoch, "static" for the same in all. Masks that
            are stored in the data set are taken as they are.
        masks: how to draw masks; None: as the data set says.
        order: which row each sample is; None: each row once in an epoch.
        packed: deal the sequences of a step out so that all micro-batches of all ranks have nearly
            the same number of tokens, rounded up to a multiple of 128.
        left_out: samples that no step takes.
        ramp: smaller steps before; None: none.
    """

    table: InstanceTable
    train_batch_size: int
    micro_batch_size: int
    rank: int
    world_size: int
    seed: int
    masking: Literal["dynamic", "static"] = "dynamic"
    masks: MaskSchedule | None = None
    order: SampleOrder | None = None
    packed: bool = False
    left_out: LeftOut = NOTHING
    ramp: BatchRamp | None = None

    def __post_init__(self):
        assert self.sizes.unit % (self.micro_batch_size * self.world_size) == 0

    @classmethod
    def of(cls, plan: Plan) -> "TrainingBatches":
        """Those of a planned run on this rank."""
        return cls(
            table=plan.train_table,
            train_batch_size=plan.batch.train_batch_size,
            micro_batch_size=plan.batch.micro_batch_size,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            seed=plan.config.seed,
            masking=plan.config.masking,
            masks=plan.masks,
            order=plan.order,
            packed=plan.config.packed,
            left_out=LeftOut.of_run(Path(plan.config.output_dir)),
            ramp=plan.batch.ramp,
        )

    @property
    def sizes(self) -> BatchRamp:
        """Of all steps."""
        return self.ramp or BatchRamp.of(None, self.train_batch_size)

    def step(self, first_sample: int, number: int | None = None) -> Step:
        """The step that starts at a sample (0, train_batch_size, ... in a run).

        Args:
            first_sample: over all ranks.
            number: of the step, from 0; None: as in a run that leaves nothing out.
        """
        indices, epochs = self._locate(first_sample)
        number = self.sizes.steps_before(first_sample) if number is None else number
        masks = self.masks.at(number) if self.masks is not None else None
        mine = np.split(self._shared_out(indices), self.world_size)[self.rank]
        micro_batches = [
            make_batch(self.table, indices[part], epochs[part], self.seed, masks) for part in mine
        ]
        if self.packed:
            micro_batches = [batch.padded(_SHAPE_STEP) for batch in micro_batches]
        if torch.cuda.is_available():
            micro_batches = [batch.pinned() for batch in micro_batches]
        num_masked_tokens = count_masked_tokens(self.table, indices, epochs, self.seed, masks)
        counts = {SEQUENCES: len(indices), MASKED_TOKENS: num_masked_tokens}
        return Step(micro_batches, counts, first_sample, indices[mine], epochs[mine])

    @contextmanager
    def iterate(self, first_sample: int, number: int | None = None) -> Iterator[Iterator[Step]]:
        """Endless steps from a sample on, made in the background while the block runs.

        Args:
            first_sample: over all ranks; what is left out is passed over.
            number: of the first step, from 0; None: as in a run that leaves nothing out.
        """
        number = self.sizes.steps_before(first_sample) if number is None else number
        executor = ThreadPoolExecutor(1, "batches")
        try:
            yield self._prefetched(executor, first_sample, number)
        finally:
            executor.shutdown(cancel_futures=True)

    def _prefetched(self, executor: ThreadPoolExecutor, sample: int, number: int) -> Iterator[Step]:
        waiting: deque = deque()
        while True:
            while len(waiting) < _STEPS_AHEAD:
                sample = self._next_start(sample)
                waiting.append(executor.submit(self.step, sample, number))
                sample += self.sizes.size(sample)
                number += 1
            yield waiting.popleft().result()

    def _next_start(self, sample: int) -> int:
        """Where a step starts that would start at `sample`, but for what is left out."""
        start = self.left_out.next_start(sample, self.sizes.size(sample))
        return start if start == sample else self._next_start(start)  # of another size, perhaps

    def _shared_out(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Samples of all micro-batches [ranks x accumulation, micro_batch_size], rank by rank."""
        if not self.packed:
            return np.arange(len(indices)).reshape(-1, self.micro_batch_size)
        lengths = sequence_lengths(self.table, indices)
        return deal(lengths, len(indices) // self.micro_batch_size)

    def _locate(self, first_sample: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and mask epochs of a step's samples over all ranks."""
        samples = first_sample + np.arange(self.sizes.size(first_sample))
        order = self.order or SampleOrder.by_size(len(self.table), self.seed)
        indices, epochs = order.locate(samples)
        return indices, epochs if self.masking == "dynamic" else np.zeros_like(epochs)


def deal(lengths: NDArray[np.int64], num_batches: int) -> NDArray[np.int64]:
    """Share sequences out, the same number to each batch, with nearly equal sums of tokens.

    The longest go to the batches in turn, the next longest in the opposite order, and so on.

    Args:
        lengths: [N] tokens of each sequence; N is a multiple of num_batches.
        num_batches: how many to make.

    Returns:
        int64 [num_batches, N / num_batches], indices into lengths.
    """
    rounds = np.argsort(-lengths, kind="stable").reshape(-1, num_batches)
    rounds[1::2] = rounds[1::2, ::-1].copy()
    return np.ascontiguousarray(rounds.T)
