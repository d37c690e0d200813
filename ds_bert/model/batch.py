"""An unpadded batch as tensors."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ds_bert.dataset.options import MaskOptions
from ds_bert.dataset.store import InstanceTable
from ds_bert.instances.collate import collate

# What losses are counted over.
MASKED_TOKENS, SEQUENCES, TOKENS = "masked_tokens", "sequences", "tokens"


@dataclass(frozen=True)
class Batch:
    """Tensors of `ds_bert.instances.collate.BatchArrays`; the sequence lengths as Python integers.

    A padded batch may have some tokens more, which form one more sequence in `cu_seqlens` only.
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

    @property
    def counts(self) -> dict[str, int]:
        """How many sequences, masked tokens and tokens there are, by name."""
        return {
            SEQUENCES: self.num_sequences,
            MASKED_TOKENS: len(self.masked_lm_labels),
            TOKENS: self.num_tokens,
        }

    def padded(self, multiple: int) -> Self:
        """The batch with its number of tokens rounded up by tokens that count for nothing."""
        missing = -self.num_tokens % multiple
        if missing == 0:
            return self  # no attention kernel has to know a sequence of length zero
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


def make_batch(
    table: InstanceTable,
    indices: NDArray[np.int64],
    epochs: NDArray[np.int64],
    seed: int,
    masks: MaskOptions | None = None,
) -> Batch:
    """The batch of some rows of a table; see `ds_bert.instances.collate.collate`."""
    arrays = collate(table, indices, epochs, seed, masks)
    tensors = {name: torch.from_numpy(array) for name, array in arrays._asdict().items()}
    return Batch(**tensors, sequence_lengths=np.diff(arrays.cu_seqlens).tolist())
