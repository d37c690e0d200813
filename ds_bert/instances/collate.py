"""From rows of an instance table to the arrays of one unpadded batch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
from ds_bert.dataset.format import StoredMasks, row_array, table_name
from ds_bert.dataset.options import PIECE, MaskOptions
from ds_bert.dataset.store import InstanceTable
from ds_bert.errors import DataError
from ds_bert.instances.masking import choose_masks, masking_rules, num_predictions
from ds_bert.instances.sentence_pairs import lay_out
from ds_bert.rng.streams import MASKS, fold_seed, start_stream


class BatchArrays(NamedTuple):
    """B sequences with T tokens in all, one after the other, without padding.

    Attributes:
        input_ids: int32 [T], with masks.
        token_type_ids: int32 [T], 0 in [CLS] A [SEP], 1 in B [SEP] where there is a B.
        position_ids: int32 [T], from 0 in each sequence.
        cu_seqlens: int32 [B + 1], the first token of each sequence, and T.
        masked_lm_positions: int64 [M], ascending indices into the T tokens.
        masked_lm_labels: int64 [M], the tokens of the text there.
        next_sentence_labels: int64 [B], 1 when B was drawn at random or (objective mlm+sop) when
            A follows B in the text, otherwise 0.
    """

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int32]
    position_ids: NDArray[np.int32]
    cu_seqlens: NDArray[np.int32]
    masked_lm_positions: NDArray[np.int64]
    masked_lm_labels: NDArray[np.int64]
    next_sentence_labels: NDArray[np.int64]


def collate(
    table: InstanceTable,
    indices: NDArray[np.int64],
    epochs: NDArray[np.int64],
    seed: int,
    masks: MaskOptions | None = None,
) -> BatchArrays:
    """Gather rows, add the special tokens and mask.

    Args:
        table: instances of one length.
        indices: int64 [B], rows of the table.
        epochs: int64 [B], choose the masks together with seed and row, unless they are stored.
        seed: any integer.
        masks: how to draw them; None: as the data set says. Stored ones are taken as they are.
    """
    masks = masks or table.options.masks
    rows = table.rows.take(indices)  # five times as fast as rows[indices]
    _check_rows(table, rows, indices)
    # The first token of each sequence, and the end of the last: sums of the lengths before.
    cu_seqlens = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(_num_tokens(rows) + table.options.num_special_tokens, out=cu_seqlens[1:])
    input_ids, token_type_ids, position_ids = np.empty((3, cu_seqlens[-1]), np.int32)
    vocabulary = table.store.vocabulary
    special_ids = (vocabulary.cls_id, vocabulary.sep_id)
    arrays = (input_ids, token_type_ids, position_ids)
    if table.masks is None:
        positions, labels = np.empty((2, len(rows) * masks.max_predictions_per_seq), np.int64)
        num_masks = _gather_and_mask(
            table.store.tokens,
            rows,
            special_ids,
            arrays,
            indices,
            epochs,
            fold_seed(seed),
            masking_rules(masks, vocabulary),
            table.max_seq_length,
            positions,
            labels,
        )
        positions, labels = positions[:num_masks], labels[:num_masks]
    else:
        _gather(table.store.tokens, rows, special_ids, arrays)
        positions, labels = _apply_stored_masks(table, table.masks, indices, cu_seqlens, input_ids)
    _check_tokens(table, input_ids)
    _check_tokens(table, labels)
    return BatchArrays(
        input_ids,
        token_type_ids,
        position_ids,
        cu_seqlens,
        positions,
        labels,
        rows["is_random_next"].astype(np.int64),
    )


def sequence_lengths(table: InstanceTable, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens of rows of a table, special tokens included."""
    return _num_tokens(table.rows.take(indices)) + table.options.num_special_tokens


def count_masked_tokens(
    table: InstanceTable,
    indices: NDArray[np.int64],
    epochs: NDArray[np.int64],
    seed: int,
    masks: MaskOptions | None = None,
) -> int:
    """Masked tokens of the batch that `collate` would make of the same arguments.

    Cheap (from lengths or stored offsets) except for whole words and runs of them, where the masks
    must be chosen.
    """
    masks, stored = masks or table.options.masks, table.masks
    if stored is not None:
        return int((stored.offsets[indices + 1] - stored.offsets[indices]).sum())
    if masks.unit != PIECE:
        return len(collate(table, indices, epochs, seed, masks).masked_lm_labels)
    return _count_single_tokens(
        _num_tokens(table.rows.take(indices)),
        table.options.num_special_tokens,
        float(masks.masked_lm_prob),
        masks.max_predictions_per_seq,
    )


def _num_tokens(rows: NDArray) -> NDArray[np.int64]:
    return rows["a_length"].astype(np.int64) + rows["b_length"]


def _check_rows(table: InstanceTable, rows: NDArray, indices: NDArray[np.int64]) -> None:
    """Refuse rows that would read outside of the tokens: compiled code does not look."""
    options = table.options
    num_tokens, limit = len(table.store.tokens), options.max_num_tokens
    bad = _first_bad_row(rows, num_tokens, limit, options.has_pairs)
    if bad >= 0:
        raise _damaged(table, row_array(table.max_seq_length), f"row {indices[bad]:,}")


def _check_tokens(table: InstanceTable, ids: NDArray[np.integer]) -> None:
    size = table.store.vocabulary.size
    if ids.max(initial=0) >= size:
        raise _damaged(table, "tokens", f"token id {ids.max():,} of {size:,}")


def _damaged(table: InstanceTable, name: str, what: str) -> DataError:
    return DataError(
        f"{table.store.folder / name}.npy: {what} cannot be right, the file was damaged after it "
        "was written; ds-bert inspect --verify checks all, copy the data set again or rebuild it"
    )


@compiled
def _first_bad_row(rows, num_tokens, max_num_tokens, has_pairs):
    """Number of the first row that is no sequence of this table; -1 if there is none."""
    for number in range(len(rows)):
        row = rows[number]
        a_length, b_length = np.int64(row.a_length), np.int64(row.b_length)
        inside = (
            a_length > 0
            and (b_length > 0) == has_pairs
            and a_length + b_length <= max_num_tokens
            and max(a_length, b_length) <= num_tokens
            and row.a_start <= np.uint64(num_tokens - a_length)
            and row.b_start <= np.uint64(num_tokens - b_length)
        )
        if not inside:
            return number
    return -1


def _apply_stored_masks(
    table: InstanceTable,
    stored: StoredMasks,
    indices: NDArray[np.int64],
    cu_seqlens: NDArray[np.int32],
    input_ids: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write stored masks into `input_ids`; returns positions and labels."""
    ends = stored.offsets[indices + 1]
    if ((ends < stored.offsets[indices]) | (ends > np.uint64(len(stored.positions)))).any():
        raise _damaged(table, f"{table_name(table.max_seq_length)}/masked_offsets", "an offset")
    counts, items = stored.find(indices)
    if (stored.positions[items] >= np.repeat(np.diff(cu_seqlens), counts)).any():
        raise _damaged(table, f"{table_name(table.max_seq_length)}/masked_positions", "a position")
    # Stored positions count from a sequence's [CLS], those of a batch from its first token.
    positions = np.repeat(cu_seqlens[:-1].astype(np.int64), counts) + stored.positions[items]
    labels = input_ids[positions].astype(np.int64)
    input_ids[positions] = stored.replacements[items]
    return positions, labels


@compiled
def _gather_and_mask(
    tokens, rows, special_ids, arrays, indices, epochs, seed, rules, room, positions, labels
):
    """Fill the arrays of a batch, sequence by sequence; returns the number of masked tokens."""
    scratch, is_masked = np.empty((2, room), np.int64), np.empty(room, np.uint8)
    stream = np.empty(2, np.uint64)
    first = num_masks = 0
    for number in range(len(rows)):
        length, separator = _gather_sequence(tokens, rows[number], special_ids, arrays, first)
        start_stream(stream, seed, MASKS, epochs[number], indices[number])
        count = choose_masks(
            stream,
            arrays[0][first : first + length],
            separator,
            rules,
            scratch,
            is_masked,
            positions[num_masks:],
            labels[num_masks:],
        )
        for place in range(num_masks, num_masks + count):
            positions[place] += first
        num_masks += count
        first += length
    return num_masks


@compiled
def _count_single_tokens(num_tokens, num_special, masked_lm_prob, max_predictions_per_seq):
    total = 0
    for count in num_tokens:
        length = count + num_special
        total += num_predictions(length, count, masked_lm_prob, max_predictions_per_seq)
    return total


@compiled
def _gather(tokens, rows, special_ids, arrays):
    first = 0
    for number in range(len(rows)):
        first += _gather_sequence(tokens, rows[number], special_ids, arrays, first)[0]


@compiled
def _gather_sequence(tokens, row, special_ids, arrays, first):
    """Write one sequence at `first`; returns its length and the first [SEP]'s position in it."""
    input_ids, token_type_ids, position_ids = arrays
    length, separator = lay_out(tokens, row, special_ids, input_ids[first:])
    segments = token_type_ids[first : first + length]
    segments[: separator + 1] = 0
    segments[separator + 1 :] = 1
    positions = position_ids[first : first + length]
    for position in range(length):
        positions[position] = position
    return length, separator
