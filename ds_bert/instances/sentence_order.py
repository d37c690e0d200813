"""Pairs of consecutive segments of one document, half of them swapped: for sentence order.

Source: Lan et al. 2020, "ALBERT", section 3.1 (inter-sentence coherence loss).
"""

import numpy as np

from ds_bert.compiled import compiled
from ds_bert.instances.sentence_pairs import (
    draw_target,
    end_of,
    first_sentence,
    last_of_chunk,
    start_of,
    truncate,
    write_row,
)
from ds_bert.rng.streams import INSTANCES, next_below, next_uniform, start_stream


@compiled
def ordered_pairs(documents, seed, copy, first, last, max_num_tokens, short_seq_prob, rows):
    """Make the rows of the documents `first` to `last` - 1; returns how many.

    Chunks are filled, cut and shortened as those of `sentence_pairs`, but have two sentences or
    more: one that fills a chunk takes the next one with it, one that is left over at the end of a
    document the one before it. A document of one sentence has no order and gives no row.
    `is_random_next` says that the segments are swapped.
    """
    stream = np.empty(2, np.uint64)
    num_rows = 0
    for document in range(first, last):
        start_stream(stream, seed, INSTANCES, copy, document)
        target = draw_target(stream, max_num_tokens, short_seq_prob)
        sentence = first_sentence(documents, document)
        final = first_sentence(documents, document + 1) - 1
        if sentence == final:
            continue
        while sentence <= final:
            begin = min(sentence, final - 1)
            end = max(last_of_chunk(documents, document, begin, target), begin + 1)
            _write_pair(stream, documents, document, begin, end, max_num_tokens, rows[num_rows])
            num_rows += 1
            sentence = end + 1
    return num_rows


@compiled
def _write_pair(stream, documents, document, first, last, max_num_tokens, row):
    """Cut the sentences `first` to `last` in two, in their order or swapped."""
    a_start = start_of(documents, document, first)
    b_start = end_of(documents, document, first + next_below(stream, last - first))
    a_length, b_length = b_start - a_start, end_of(documents, document, last) - b_start
    is_swapped = next_uniform(stream) < 0.5
    if is_swapped:  # before shortening: its rules, such as B on a tie, must not tell the order
        a_start, a_length, b_start, b_length = b_start, b_length, a_start, a_length
    a_start, a_length, b_start, b_length = truncate(
        stream, a_start, a_length, b_start, b_length, max_num_tokens
    )
    write_row(row, a_start, a_length, b_start, b_length, is_swapped)
