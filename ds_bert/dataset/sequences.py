"""Finished instances that were made elsewhere: whole sequences, which bring their own text."""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.documents import DocumentRun
from ds_bert.dataset.format import INSTANCE_DTYPE, POSITION_DTYPE, SENTENCE_END_DTYPE
from ds_bert.dataset.options import InstanceOptions
from ds_bert.dataset.tables import MaskChunk, RowChunk
from ds_bert.errors import DataError


class SequenceChunk(NamedTuple):
    """Some sequences [CLS] A [SEP] B [SEP], without their special tokens; integers of any dtype.

    B is empty in data for masked-LM alone, [CLS] A [SEP].

    Attributes:
        tokens: [T], A and B of the first sequence, A and B of the next, ...; at masked positions
            the token of the text (the label), not what the model sees.
        a_lengths: [N], tokens of each A.
        b_lengths: [N], tokens of each B.
        is_random_next: [N], 0 where B follows A in its text, 1 where it does not, or (objective
            mlm+sop) where A follows B.
        masks: theirs, or None where masks are made for each batch.
    """

    tokens: NDArray
    a_lengths: NDArray
    b_lengths: NDArray
    is_random_next: NDArray
    masks: MaskChunk | None = None


def sequence_documents(chunk: SequenceChunk, token_dtype: np.dtype) -> DocumentRun:
    """Each sequence as a document of its own, with its segments as sentences."""
    lengths = np.stack([chunk.a_lengths, chunk.b_lengths], axis=1).astype(np.int64)
    ends = np.cumsum(lengths, axis=1)
    is_sentence = lengths > 0
    return DocumentRun(
        chunk.tokens.astype(token_dtype),
        ends[is_sentence].astype(SENTENCE_END_DTYPE),
        ends[:, 1],
        is_sentence.sum(axis=1),
    )


def sequence_rows(chunk: SequenceChunk, first_token: int, token_dtype: np.dtype) -> RowChunk:
    """Rows that point into those documents, the first of which begins at token `first_token`."""
    lengths = chunk.a_lengths.astype(np.int64) + chunk.b_lengths
    rows = np.zeros(len(lengths), INSTANCE_DTYPE)
    rows["a_start"] = first_token + np.cumsum(lengths) - lengths
    rows["b_start"] = rows["a_start"] + chunk.a_lengths.astype(np.uint64)
    rows["a_length"], rows["b_length"] = chunk.a_lengths, chunk.b_lengths
    rows["is_random_next"] = chunk.is_random_next
    if chunk.masks is None:
        return RowChunk(rows)
    dtypes = (np.dtype(np.uint16), POSITION_DTYPE, token_dtype)
    masks = (items.astype(dtype) for items, dtype in zip(chunk.masks, dtypes, strict=True))
    return RowChunk(rows, MaskChunk(*masks))


def check_sequences(chunk: SequenceChunk, options: InstanceOptions, vocabulary_size: int) -> None:
    """Refuse sequences that cannot be stored: they come from elsewhere.

    Raises:
        DataError: names the first one, counted from the first of the chunk.
    """
    _check_sizes(chunk)
    rules = chain(
        _text_rules(chunk, options, vocabulary_size),
        _mask_rules(chunk, chunk.masks, options, vocabulary_size) if chunk.masks else (),
    )
    for owners, is_right, expected in rules:
        if not is_right.all():
            number = owners[np.argmin(is_right)]
            raise DataError(
                f"sequence {number:,} of a chunk of {len(chunk.a_lengths):,}: expected {expected}; "
                "mend such sequences or leave them out"
            )


def _check_sizes(chunk: SequenceChunk) -> None:
    num_rows = len(chunk.a_lengths)
    num_tokens = int(chunk.a_lengths.sum()) + int(chunk.b_lengths.sum())
    found = [len(array) for array in (chunk.tokens, chunk.b_lengths, chunk.is_random_next)]
    expected = [num_tokens, num_rows, num_rows]
    if chunk.masks is not None:
        num_masks = int(chunk.masks.counts.sum())
        found += map(len, chunk.masks)
        expected += [num_rows, num_masks, num_masks]
    if found != expected:
        raise DataError(
            f"a chunk of sequences has arrays of {found} items (tokens, b_lengths, is_random_next, "
            f"masks), expected {expected} by its lengths and counts; mend what makes it"
        )


# What is checked: the sequence that each item belongs to, whether it is right, what is expected.
_Rule = tuple[NDArray, NDArray, str]


def _text_rules(
    chunk: SequenceChunk, options: InstanceOptions, vocabulary_size: int
) -> Iterator[_Rule]:
    tokens, a_lengths, b_lengths, is_random_next = (array.astype(np.int64) for array in chunk[:4])
    lengths, numbers = a_lengths + b_lengths, np.arange(len(a_lengths))
    if options.has_pairs:
        yield numbers, np.minimum(a_lengths, b_lengths) > 0, "segments of one token or more"
    else:
        one = (a_lengths > 0) & (b_lengths == 0)
        yield numbers, one, "one segment of one token or more, and an empty B"
    limit = options.max_num_tokens
    yield numbers, lengths <= limit, f"at most {limit} tokens beside the special ones"
    yield numbers, np.isin(is_random_next, (0, 1)), "is_random_next to be 0 or 1"
    are_ids = (tokens >= 0) & (tokens < vocabulary_size)
    yield np.repeat(numbers, lengths), are_ids, f"token ids below {vocabulary_size:,}"


def _mask_rules(
    chunk: SequenceChunk, masks: MaskChunk, options: InstanceOptions, vocabulary_size: int
) -> Iterator[_Rule]:
    counts, positions, replacements = (array.astype(np.int64) for array in masks)
    numbers, limit = np.arange(len(counts)), options.max_masks
    yield numbers, (counts >= 0) & (counts <= limit), f"at most {limit} masked tokens"
    owners = np.repeat(numbers, counts)
    separators = 1 + chunk.a_lengths.astype(np.int64)
    ends = separators + 1 + chunk.b_lengths
    on_text = (positions > 0) & (positions != separators[owners]) & (positions < ends[owners])
    yield owners, on_text, "masked positions on tokens of the text"
    # In one line of numbers, with a stretch for each sequence, ascending means ascending in each.
    steps = np.diff(owners * (options.max_seq_length + 1) + positions, prepend=-1)
    yield owners, steps > 0, "ascending masked positions"
    are_ids = (replacements >= 0) & (replacements < vocabulary_size)
    yield owners, are_ids, f"replacements below {vocabulary_size:,}"
