"""The instances of one sequence length: chunks of them in memory, their arrays to append to."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.format import INSTANCE_DTYPE, mask_arrays, row_array
from ds_bert.dataset.npy import NpyWriter, append_ends


class MaskChunk(NamedTuple):
    """Masks of some instances.

    Attributes:
        counts: uint16 [N], masked tokens of each instance.
        positions: uint16 [M], ascending positions in [CLS] A [SEP] B [SEP].
        replacements: token dtype [M], the id that the model sees there.
    """

    counts: NDArray[np.uint16]
    positions: NDArray[np.uint16]
    replacements: NDArray


class RowChunk(NamedTuple):
    """Some instances as rows that point into the documents of the data set.

    Attributes:
        rows: INSTANCE_DTYPE [N].
        masks: theirs, or None where masks are made for each batch.
    """

    rows: NDArray
    masks: MaskChunk | None = None


class TableFiles:
    """The arrays of one sequence length, to append to.

    Attributes:
        counts: what meta.json says about them, kept in step.
    """

    def __init__(
        self,
        open_array: Callable[[str, np.dtype], NpyWriter],
        max_seq_length: int,
        token_dtype: np.dtype,
        counts: dict[str, Any],
    ) -> None:
        """Open them at the end of what they hold.

        Args:
            open_array: opens one by its name and dtype.
            max_seq_length: which table.
            token_dtype: dtype of token ids.
            counts: from `new_counts`, or as they were.
        """
        self.counts = counts
        self._rows = open_array(row_array(max_seq_length), INSTANCE_DTYPE)
        self._masks: list[NpyWriter] = []  # positions, replacements, offsets
        if counts["num_stored_masks"] is not None:
            masks = mask_arrays(max_seq_length, token_dtype)
            self._masks = [open_array(name, dtype) for name, dtype in masks.items()]

    @staticmethod
    def new_counts(has_masks: bool) -> dict[str, Any]:
        """Counts of a table without rows."""
        masks = 0 if has_masks else None
        return {"num_instances": 0, "num_random_next": 0, "num_stored_masks": masks}

    def append(self, chunk: RowChunk) -> None:
        """Append some instances, all with masks or all without."""
        assert (chunk.masks is None) == (not self._masks), "masks as told at the beginning"
        self._rows.append(chunk.rows)
        self.counts["num_instances"] = self._rows.num_items
        self.counts["num_random_next"] += int(chunk.rows["is_random_next"].sum())
        if chunk.masks is not None:
            positions, replacements, offsets = self._masks
            append_ends(offsets, chunk.masks.counts, positions)
            positions.append(chunk.masks.positions)
            replacements.append(chunk.masks.replacements)
            self.counts["num_stored_masks"] = positions.num_items
