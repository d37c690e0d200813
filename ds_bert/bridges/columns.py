"""Instances as other programs store them: lists of numbers, perhaps with padding behind.

Files of all formats are read as `Columns`; `padded` is the way back.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
from ds_bert.instances.collate import BatchArrays


class Lists(NamedTuple):
    """A list of integers for each record: items starts to starts + counts of the values.

    Attributes:
        values: int64 [T].
        starts: int64 [N].
        counts: int64 [N], -1 where a record has no such list.
    """

    values: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]


class Columns(NamedTuple):
    """Some records as they were found.

    Attributes:
        input_ids: [CLS] A [SEP] B [SEP] as the model sees it, perhaps with padding behind.
        segment_ids: 0 in [CLS] A [SEP], 1 in B [SEP].
        lengths: int64 [N], tokens without padding; -1: what says so is not ones, then zeros.
        positions: masked positions in the sequence, perhaps with padding behind.
        labels: tokens of the text there.
        num_masks: int64 [N], masked tokens; -1 as for `lengths`.
        is_random_next: int64 [N].
    """

    input_ids: Lists
    segment_ids: Lists
    lengths: NDArray[np.int64]
    positions: Lists
    labels: Lists
    num_masks: NDArray[np.int64]
    is_random_next: NDArray[np.int64]


def lists_of_rows(rows: NDArray) -> Lists:
    """The rows of a matrix [N, L]."""
    num_rows, width = rows.shape
    values = np.ascontiguousarray(rows, np.int64).reshape(-1)
    starts = np.arange(num_rows, dtype=np.int64) * width
    return Lists(values, starts, np.full(num_rows, width, np.int64))


def lists_of_counts(values: NDArray, counts: NDArray) -> Lists:
    """Lists that stand one after the other."""
    counts = np.array(counts, np.int64)
    # Copies: arrays that cannot be written are another type, for which all would be compiled anew.
    return Lists(np.array(values, np.int64), np.cumsum(counts) - counts, counts)


@compiled
def ones_at_front(lists):
    """How many ones each list begins with; -1 where anything but zeros follows."""
    result = np.zeros(len(lists.counts), np.int64)
    for row in range(len(result)):
        start, count = lists.starts[row], max(0, lists.counts[row])
        num_ones = 0
        while num_ones < count and lists.values[start + num_ones] == 1:
            num_ones += 1
        result[row] = num_ones
        for place in range(num_ones, count):
            if lists.values[start + place] != 0:
                result[row] = -1
    return result


def padded(
    batch: BatchArrays, max_seq_length: int, max_predictions_per_seq: int
) -> dict[str, NDArray[np.int32]]:
    """A batch as Google and NVIDIA store it.

    Returns:
        int32 arrays by the names of Google's features: `input_ids`, `input_mask`, `segment_ids`
        [B, max_seq_length], `masked_lm_positions`, `masked_lm_ids`, `masked_lm_weights` (1 for a
        masked token, 0 for padding) [B, max_predictions_per_seq], `next_sentence_labels` [B].
    """
    starts = batch.cu_seqlens[:-1].astype(np.int64)
    bounds = np.searchsorted(batch.masked_lm_positions, batch.cu_seqlens)
    counts = np.diff(bounds)
    rows = np.repeat(np.arange(len(starts)), counts)
    masked = rows, np.arange(len(rows)) - np.repeat(bounds[:-1], counts)
    tokens = np.repeat(np.arange(len(starts)), np.diff(batch.cu_seqlens)), batch.position_ids
    shown = ("input_ids", "input_mask", "segment_ids")
    asked = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
    shape = (len(starts), max_seq_length)
    arrays = {name: np.zeros(shape, np.int32) for name in shown}
    arrays |= {name: np.zeros((len(starts), max_predictions_per_seq), np.int32) for name in asked}
    arrays["input_ids"][tokens] = batch.input_ids
    arrays["input_mask"][tokens] = 1
    arrays["segment_ids"][tokens] = batch.token_type_ids
    arrays["masked_lm_positions"][masked] = batch.masked_lm_positions - starts[rows]
    arrays["masked_lm_ids"][masked] = batch.masked_lm_labels
    arrays["masked_lm_weights"][masked] = 1
    return arrays | {"next_sentence_labels": batch.next_sentence_labels.astype(np.int32)}
