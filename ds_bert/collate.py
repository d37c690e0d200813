"""From rows of an instance table to the arrays of one unpadded batch."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ds_bert.instance_options import NUM_SPECIAL_TOKENS
from ds_bert.masking import choose_masks, masking_rules, num_predictions
from ds_bert.random_streams import MASKS, fold_seed, start_stream
from ds_bert.store import InstanceTable


class Masks(NamedTuple):
    """Masked tokens of B sequences, one sequence after the other.

    Attributes:
        counts: int64 [B], masked tokens of each sequence.
        positions: uint16 [M], ascending positions in [CLS] A [SEP] B [SEP].
        replacements: [M], the id that the model sees there.
    """

    counts: NDArray[np.int64]
    positions: NDArray[np.uint16]
    replacements: NDArray


class BatchArrays(NamedTuple):
    """B sequences with T tokens in all, one after the other, without padding.

    Attributes:
        input_ids: int64 [T], with masks.
        token_type_ids: int64 [T], 0 in [CLS] A [SEP], 1 in B [SEP].
        position_ids: int64 [T], from 0 in each sequence.
        cu_seqlens: int32 [B + 1], the first token of each sequence, and T.
        masked_lm_positions: int64 [M], ascending indices into the T tokens.
        masked_lm_labels: int64 [M], the tokens of the text there.
        next_sentence_labels: int64 [B], 0 when B follows A, 1 when it was drawn at random.
    """

    input_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    cu_seqlens: NDArray[np.int32]
    masked_lm_positions: NDArray[np.int64]
    masked_lm_labels: NDArray[np.int64]
    next_sentence_labels: NDArray[np.int64]


def collate(
    table: InstanceTable, indices: NDArray[np.int64], epochs: NDArray[np.int64], seed: int
) -> BatchArrays:
    """Gather rows, add the special tokens and mask.

    Args:
        table: instances of one length.
        indices: int64 [B], rows of the table.
        epochs: int64 [B], choose the masks together with seed and row, unless they are stored.
        seed: any integer.
    """
    rows = table.rows[indices]
    masks = _masks(table, rows, indices, epochs, seed)
    lengths = _num_tokens(rows) + NUM_SPECIAL_TOKENS
    cu_seqlens = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    input_ids, token_type_ids, position_ids = np.empty((3, cu_seqlens[-1]), np.int64)
    vocabulary = table.store.vocabulary
    _gather(
        table.store.tokens,
        rows,
        (vocabulary.cls_id, vocabulary.sep_id),
        input_ids,
        token_type_ids,
        position_ids,
    )
    positions = np.repeat(cu_seqlens[:-1].astype(np.int64), masks.counts) + masks.positions
    labels = input_ids[positions]
    input_ids[positions] = masks.replacements
    return BatchArrays(
        input_ids,
        token_type_ids,
        position_ids,
        cu_seqlens,
        positions,
        labels,
        rows["is_random_next"].astype(np.int64),
    )


def count_masked_tokens(
    table: InstanceTable, indices: NDArray[np.int64], epochs: NDArray[np.int64], seed: int
) -> int:
    """Masked tokens of the batch that `collate` would make of the same arguments.

    Cheap (from lengths or stored offsets) except for whole words, where the masks must be chosen.
    """
    options, stored = table.options, table.masks
    if stored is not None:
        return int((stored.offsets[indices + 1] - stored.offsets[indices]).sum())
    rows = table.rows[indices]
    if options.do_whole_word_mask:
        return int(_masks(table, rows, indices, epochs, seed).counts.sum())
    return _count_single_tokens(
        _num_tokens(rows), float(options.masked_lm_prob), options.max_predictions_per_seq
    )


def _num_tokens(rows: NDArray) -> NDArray[np.int64]:
    return rows["a_length"].astype(np.int64) + rows["b_length"]


def _masks(
    table: InstanceTable,
    rows: NDArray,
    indices: NDArray[np.int64],
    epochs: NDArray[np.int64],
    seed: int,
) -> Masks:
    if table.masks is not None:
        return _stored_masks(table.masks, indices)
    options = table.options
    capacity = len(rows) * options.max_predictions_per_seq
    counts = np.empty(len(rows), np.int64)
    positions = np.empty(capacity, np.uint16)
    replacements = np.empty(capacity, np.int64)
    num_masks = _choose(
        table.store.tokens,
        rows,
        indices,
        epochs,
        fold_seed(seed),
        masking_rules(options, table.store.vocabulary),
        np.empty((2, options.max_seq_length), np.int64),
        Masks(counts, positions, replacements),
    )
    return Masks(counts, positions[:num_masks], replacements[:num_masks])


def _stored_masks(stored, indices: NDArray[np.int64]) -> Masks:
    starts = stored.offsets[indices].astype(np.int64)
    counts = stored.offsets[indices + 1].astype(np.int64) - starts
    # Item k of a sequence is item start + k of the file.
    before = np.cumsum(counts) - counts
    items = np.repeat(starts - before, counts) + np.arange(counts.sum())
    return Masks(counts, stored.positions[items], stored.replacements[items])


@njit(cache=True, nogil=True)
def _choose(tokens, rows, indices, epochs, seed, rules, scratch, masks):
    stream = np.empty(2, np.uint64)
    num_masks = 0
    for number in range(len(rows)):
        row = rows[number]
        start_stream(stream, seed, MASKS, epochs[number], indices[number])
        masks.counts[number] = choose_masks(
            stream,
            tokens[row.a_start : row.a_start + row.a_length],
            tokens[row.b_start : row.b_start + row.b_length],
            rules,
            scratch,
            masks.positions[num_masks:],
            masks.replacements[num_masks:],
        )
        num_masks += masks.counts[number]
    return num_masks


@njit(cache=True, nogil=True)
def _count_single_tokens(num_tokens, masked_lm_prob, max_predictions_per_seq):
    total = 0
    for count in num_tokens:
        total += num_predictions(count, masked_lm_prob, max_predictions_per_seq)
    return total


@njit(cache=True, nogil=True)
def _gather(tokens, rows, special_ids, input_ids, token_type_ids, position_ids):
    cls_id, sep_id = special_ids
    place = 0
    for row in rows:
        first = place
        input_ids[place] = cls_id
        place += 1
        for token in tokens[row.a_start : row.a_start + row.a_length]:
            input_ids[place] = token
            place += 1
        input_ids[place] = sep_id
        place += 1
        token_type_ids[first:place] = 0
        segment_b = place
        for token in tokens[row.b_start : row.b_start + row.b_length]:
            input_ids[place] = token
            place += 1
        input_ids[place] = sep_id
        place += 1
        token_type_ids[segment_b:place] = 1
        for position in range(place - first):
            position_ids[first + position] = position
