"""The data of each training step: which sequences, in which order, on which rank.

Sample p of a run is row `permuted(p % N)` of epoch p // N. So the position in the data is one
number, the same for any number of ranks, and no order is ever stored.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ds_bert.collate import collate, count_masked_tokens, sequence_lengths
from ds_bert.packing import deal
from ds_bert.random_streams import permuted
from ds_bert.store import InstanceTable

_STEPS_AHEAD = 2
_SHAPE_STEP = 128  # tokens; packed batches then have few shapes


@dataclass(frozen=True)
class Batch:
    """The tensors of `ds_bert.collate.BatchArrays`, and the sequence lengths as Python integers.

    A padded batch has some tokens more, which form one more sequence in `cu_seqlens` only.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    masked_lm_positions: Tensor
    masked_lm_labels: Tensor
    next_sentence_labels: Tensor
    sequence_lengths: list[int]

    @property
    def num_sequences(self) -> int:
        """Number of sequences B."""
        return len(self.sequence_lengths)

    @property
    def num_tokens(self) -> int:
        """Number of tokens T without padding."""
        return sum(self.sequence_lengths)

    def padded(self, multiple: int) -> Self:
        """The batch with its number of tokens rounded up by tokens that count for nothing."""
        missing = -self.num_tokens % multiple
        return replace(
            self,
            input_ids=F.pad(self.input_ids, (0, missing)),
            token_type_ids=F.pad(self.token_type_ids, (0, missing)),
            position_ids=F.pad(self.position_ids, (0, missing)),
            cu_seqlens=F.pad(self.cu_seqlens, (0, 1), value=self.num_tokens + missing),
        )

    def to(self, device: torch.device) -> Self:
        """The batch on a device; the copy does not wait if the batch is pinned."""
        return self._with_each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """The batch in page-locked memory."""
        return self._with_each(Tensor.pin_memory)

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors = {n: change(value) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return type(self)(**tensors, sequence_lengths=self.sequence_lengths)


class Step(NamedTuple):
    """What one rank works on in one optimizer step.

    Attributes:
        micro_batches: the batches of this rank, one for each accumulation step.
        num_masked_tokens: masked tokens of the step over all ranks.
        num_sequences: sequences of the step over all ranks.
    """

    micro_batches: list[Batch]
    num_masked_tokens: int
    num_sequences: int


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
        packed: deal the sequences of a step out so that all micro-batches of all ranks have nearly
            the same number of tokens, rounded up to a multiple of 128.
    """

    table: InstanceTable
    train_batch_size: int
    micro_batch_size: int
    rank: int
    world_size: int
    seed: int
    masking: Literal["dynamic", "static"] = "dynamic"
    packed: bool = False

    def __post_init__(self):
        assert self.train_batch_size % (self.micro_batch_size * self.world_size) == 0

    def step(self, first_sample: int) -> Step:
        """The step that starts at a sample (0, train_batch_size, ... in a run)."""
        indices, epochs = self._locate(first_sample)
        mine = np.split(self._shared_out(indices), self.world_size)[self.rank]
        micro_batches = [
            make_batch(self.table, indices[part], epochs[part], self.seed) for part in mine
        ]
        if self.packed:
            micro_batches = [batch.padded(_SHAPE_STEP) for batch in micro_batches]
        if torch.cuda.is_available():
            micro_batches = [batch.pinned() for batch in micro_batches]
        num_masked_tokens = count_masked_tokens(self.table, indices, epochs, self.seed)
        return Step(micro_batches, num_masked_tokens, self.train_batch_size)

    @contextmanager
    def iterate(self, first_sample: int) -> Iterator[Iterator[Step]]:
        """Endless steps from a sample on, made in the background while the block runs."""
        executor = ThreadPoolExecutor(1, "batches")
        try:
            yield self._prefetched(executor, first_sample)
        finally:
            executor.shutdown(cancel_futures=True)

    def _prefetched(self, executor: ThreadPoolExecutor, sample: int) -> Iterator[Step]:
        waiting: deque = deque()
        while True:
            while len(waiting) < _STEPS_AHEAD:
                waiting.append(executor.submit(self.step, sample))
                sample += self.train_batch_size
            yield waiting.popleft().result()

    def _shared_out(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Samples of all micro-batches [ranks x accumulation, micro_batch_size], rank by rank."""
        if not self.packed:
            return np.arange(len(indices)).reshape(-1, self.micro_batch_size)
        lengths = sequence_lengths(self.table, indices)
        return deal(lengths, len(indices) // self.micro_batch_size)

    def _locate(self, first_sample: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and mask epochs of a step's samples over all ranks."""
        samples = np.arange(first_sample, first_sample + self.train_batch_size)
        epochs, positions = np.divmod(samples, len(self.table))
        indices = np.empty_like(samples)
        for epoch in range(epochs[0], epochs[-1] + 1):
            inside = epochs == epoch
            indices[inside] = permuted(positions[inside], len(self.table), self.seed, epoch)
        return indices, epochs if self.masking == "dynamic" else np.zeros_like(epochs)


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


def make_batch(
    table: InstanceTable, indices: NDArray[np.int64], epochs: NDArray[np.int64], seed: int
) -> Batch:
    """The batch of some rows of a table; see `ds_bert.collate.collate`."""
    arrays = collate(table, indices, epochs, seed)
    tensors = {name: torch.from_numpy(array) for name, array in arrays._asdict().items()}
    return Batch(**tensors, sequence_lengths=np.diff(arrays.cu_seqlens).tolist())
