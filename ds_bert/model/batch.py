"""An unpadded batch as tensors."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ds_bert.batching.packing import Shape
from ds_bert.dataset.options import MaskOptions
from ds_bert.dataset.store import InstanceTable
from ds_bert.instances.collate import collate

# What losses are counted over.
MASKED_TOKENS, SEQUENCES, TOKENS = "masked_tokens", "sequences", "tokens"
NO_LABEL = -100  # counts for nothing in any loss: what torch's cross-entropy leaves out


@dataclass(frozen=True)
class Batch:
    """Tensors of `ds_bert.instances.collate.BatchArrays`; the sequence lengths as Python integers.

    A padded batch may have some tokens more, which form more sequences in `cu_seqlens` only, and
    labels more, which are `NO_LABEL`.

    Attributes:
        sequence_lengths: tokens of each sequence, without padding.
        num_spare: masked positions that are padding, the last ones.
        longest: tokens of a sequence at most, where that is to be the same for many batches.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    masked_lm_positions: Tensor
    masked_lm_labels: Tensor
    next_sentence_labels: Tensor
    sequence_lengths: list[int]
    num_spare: int = 0
    longest: int = 0

    @property
    def num_sequences(self) -> int:
        """Number of sequences B."""
        return len(self.sequence_lengths)

    @property
    def num_tokens(self) -> int:
        """Number of tokens T without padding."""
        return sum(self.sequence_lengths)

    @property
    def max_length(self) -> int:
        """At least the tokens of the longest sequence."""
        return max([self.longest, *self.sequence_lengths])

    @property
    def num_masked_tokens(self) -> int:
        """Number of masked tokens M without padding."""
        return len(self.masked_lm_labels) - self.num_spare

    @property
    def counts(self) -> dict[str, int]:
        """How many sequences, masked tokens and tokens there are, by name."""
        return {
            SEQUENCES: self.num_sequences,
            MASKED_TOKENS: self.num_masked_tokens,
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

    def padded_to(self, shape: Shape) -> Self:
        """The batch with all its tensors of one shape, which it has to fit."""
        missing = shape.num_tokens - self.num_tokens
        more = shape.num_sequences - self.num_sequences
        unlabelled = shape.num_labels - self.num_sequences
        spare = shape.num_masked - len(self.masked_lm_labels)
        assert 0 < more <= missing and spare >= 0
        # Evenly, so no attention kernel has to know a sequence of length zero or a long one.
        ends = self.num_tokens + torch.arange(1, more + 1) * missing // more
        places = self.num_tokens + torch.arange(spare) % missing
        return replace(
            self,
            input_ids=F.pad(self.input_ids, (0, missing)),
            token_type_ids=F.pad(self.token_type_ids, (0, missing)),
            position_ids=F.pad(self.position_ids, (0, missing)),
            cu_seqlens=torch.cat([self.cu_seqlens, ends.to(self.cu_seqlens.dtype)]),
            masked_lm_positions=torch.cat([self.masked_lm_positions, places]),
            masked_lm_labels=F.pad(self.masked_lm_labels, (0, spare), value=NO_LABEL),
            next_sentence_labels=F.pad(self.next_sentence_labels, (0, unlabelled), value=NO_LABEL),
            num_spare=spare,
            longest=shape.max_length,
        )

    def to(self, device: torch.device) -> Self:
        """The batch on a device; the copy does not wait if the batch is pinned."""
        return self._with_each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """The batch in page-locked memory."""
        return self._with_each(Tensor.pin_memory)

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


def make_batch(
    table: InstanceTable,
    indices: NDArray[np.int64],
    epochs: NDArray[np.int64],
    seed: int,
    masks: MaskOptions | None = None,
) -> Batch:
    """The batch of some rows of a table; see `ds_bert.instances.collate.collate`."""
    arrays = collate(table, indices, epochs, seed, masks)
    tensors: dict[str, Any] = {
        name: torch.from_numpy(array) for name, array in arrays._asdict().items()
    }
    return Batch(**tensors, sequence_lengths=np.diff(arrays.cu_seqlens).tolist())
