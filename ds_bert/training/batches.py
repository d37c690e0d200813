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
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ds_bert import distributed
from ds_bert.batching.packing import Shape, choose_shape, deal, deal_into
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
_SAMPLE = 2**15  # sequences at least, by whose lengths the one shape is chosen


class Step(NamedTuple):
    """What one rank works on in one optimizer step.

    Attributes:
        micro_batches: the batches of this rank, one for each accumulation step.
        counts: of the step over all ranks, those that losses are divided by; see `Batch.counts`.
        first_sample: of the step over all ranks.
        rows: of each micro-batch int64 [B], rows of the table.
        epochs: int64, likewise: those that the masks are made for.
    """

    micro_batches: list[Batch]
    counts: dict[str, int]
    first_sample: int
    rows: list[NDArray[np.int64]]
    epochs: list[NDArray[np.int64]]


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
        constant_shapes: packed, and every micro-batch padded to `shape`.
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
    constant_shapes: bool = False
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
            constant_shapes=plan.config.constant_shapes,
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
        shared = self._shared_out(indices)
        number_of_each = len(shared) // self.world_size
        mine = shared[self.rank * number_of_each :][:number_of_each]
        micro_batches = [
            make_batch(self.table, indices[part], epochs[part], self.seed, masks) for part in mine
        ]
        if self.shape is not None:
            micro_batches = [batch.padded_to(self.shape) for batch in micro_batches]
        elif self.packed:
            micro_batches = [batch.padded(_SHAPE_STEP) for batch in micro_batches]
        if torch.cuda.is_available():
            micro_batches = [batch.pinned() for batch in micro_batches]
        num_masked_tokens = count_masked_tokens(self.table, indices, epochs, self.seed, masks)
        counts = {SEQUENCES: len(indices), MASKED_TOKENS: num_masked_tokens}
        rows, of_epochs = ([array[part] for part in mine] for array in (indices, epochs))
        return Step(micro_batches, counts, first_sample, rows, of_epochs)

    @property
    def _plain_order(self) -> SampleOrder:
        return SampleOrder.by_size(len(self.table), self.seed)

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

    def _shared_out(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Samples of all micro-batches, rank by rank, equally many micro-batches on each."""
        num_batches = len(indices) // self.micro_batch_size
        if not self.packed and self.shape is None:
            return np.split(np.arange(len(indices)), num_batches)
        lengths = sequence_lengths(self.table, indices)
        if self.shape is None:
            return deal(lengths, num_batches)
        return deal_into(self.shape, lengths, self.world_size)

    @cached_property
    def shape(self) -> Shape | None:
        """What all micro-batches are padded to; None: they are what they are.

        It follows from the first samples of the run, so it is the same on all ranks and however
        often the run goes on.
        """
        if not self.constant_shapes:
            return None
        number = max(self.train_batch_size, _SAMPLE)
        rows, _ = (self.order or self._plain_order).locate(np.arange(number))
        share, most = self._masks_of_a_sequence()
        return choose_shape(
            sequence_lengths(self.table, rows),
            self.micro_batch_size,
            self.train_batch_size // self.micro_batch_size,
            self.world_size,
            self.table.max_seq_length,
            share,
            most,
        )

    def _masks_of_a_sequence(self) -> tuple[float, int]:
        """The share of its tokens, and their number at most."""
        stored = self.table.masks
        if stored is not None:
            return 1.0, int(np.diff(stored.offsets).max())
        masks = self.masks.most if self.masks is not None else self.table.options.masks
        return masks.masked_lm_prob, masks.max_predictions_per_seq

    def _locate(self, first_sample: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and mask epochs of a step's samples over all ranks."""
        samples = first_sample + np.arange(self.sizes.size(first_sample))
        indices, epochs = (self.order or self._plain_order).locate(samples)
        return indices, epochs if self.masking == "dynamic" else np.zeros_like(epochs)
