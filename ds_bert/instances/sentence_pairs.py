"""How Google's script cuts a document into sentence pairs, for either kind of random generator.

Both modes of preprocessing thus follow one text of the rules.

Source: google-research/bert, create_pretraining_data.py (`create_instances_from_document`,
`truncate_seq_pair`).
"""

import numpy as np

from ds_bert.compiled import compiled
from ds_bert.rng.source import randbelow, random

NUM_TRIES = 10  # to find another document


@compiled
def draw_target(state, max_num_tokens, short_seq_prob):
    """Number of tokens to fill the pairs of one document with."""
    if random(state) < short_seq_prob:
        return 2 + randbelow(state, max_num_tokens - 1)
    return max_num_tokens


@compiled
def next_pair(state, documents, order, place, sentence, target, max_num_tokens, row):
    """Make the pair that starts at a sentence.

    Args:
        state: state of the random generator, see `ds_bert.rng.source`.
        documents: `ds_bert.dataset.format.Documents`.
        order: int64 [D], the shuffled documents; empty: in the order of the corpus.
        place: number of the document in that order.
        sentence: first sentence of the pair, an index into `documents.sentence_ends`.
        target: from `draw_target`.
        max_num_tokens: limit for both segments together.
        row: item of `ds_bert.dataset.format.INSTANCE_DTYPE`, written; lengths are at least 1.

    Returns:
        the sentence that the next pair of the document starts at.
    """
    document = _document(order, place)
    last = last_of_chunk(documents, document, sentence, target)
    a_last = sentence
    if last > sentence:
        a_last += randbelow(state, last - sentence)
    a_start = start_of(documents, document, sentence)
    a_stop = end_of(documents, document, a_last)
    is_random_next = last == sentence or random(state) < 0.5
    if is_random_next:
        wanted = target - (a_stop - a_start)
        b_start, b_stop = _random_segment(state, documents, order, place, wanted)
        following = a_last + 1  # the rest of the chunk goes back
    else:
        b_start, b_stop = a_stop, end_of(documents, document, last)
        following = last + 1
    a_start, a_length, b_start, b_length = truncate(
        state, a_start, a_stop - a_start, b_start, b_stop - b_start, max_num_tokens
    )
    write_row(row, a_start, a_length, b_start, b_length, is_random_next)
    return following


@compiled
def first_sentence(documents, document):
    """Index of a document's first sentence; that of document D is the number of sentences."""
    return np.int64(documents.sentence_offsets[document])


@compiled
def _document(order, place):
    return order[place] if len(order) > 0 else place


@compiled
def start_of(documents, document, sentence):
    """A sentence's first token, an index into `documents.tokens`."""
    if sentence == first_sentence(documents, document):
        return np.int64(documents.token_offsets[document])
    return end_of(documents, document, sentence - 1)


@compiled
def end_of(documents, document, sentence):
    """The token after a sentence's last, an index into `documents.tokens`."""
    return np.int64(documents.token_offsets[document]) + np.int64(documents.sentence_ends[sentence])


@compiled
def last_of_chunk(documents, document, sentence, target):
    """Last sentence of the chunk: it reaches the target or ends the document."""
    start = start_of(documents, document, sentence)
    end = first_sentence(documents, document + 1) - 1
    while sentence < end and end_of(documents, document, sentence) - start < target:
        sentence += 1
    return sentence


@compiled
def _random_segment(state, documents, order, place, wanted):
    """Whole sentences from a random place of another document, `wanted` tokens if it has them.

    When all tries hit the document itself, it is taken, as in a corpus of one document.
    """
    num_documents = len(documents.token_offsets) - 1
    other = place
    for _ in range(NUM_TRIES):
        other = randbelow(state, num_documents)
        if other != place:
            break
    document = _document(order, other)
    first = first_sentence(documents, document)
    num_sentences = first_sentence(documents, document + 1) - first
    sentence = first + randbelow(state, num_sentences)
    start = start_of(documents, document, sentence)
    return start, end_of(documents, document, last_of_chunk(documents, document, sentence, wanted))


@compiled
def truncate(state, a_start, a_length, b_start, b_length, max_num_tokens):
    """Take single tokens off the longer segment, B on a tie, at its front or back by chance."""
    while a_length + b_length > max_num_tokens:
        off_front = random(state) < 0.5
        if a_length > b_length:
            a_length -= 1
            a_start += off_front
        else:
            b_length -= 1
            b_start += off_front
    return a_start, a_length, b_start, b_length


@compiled
def write_row(row, a_start, a_length, b_start, b_length, is_random_next):
    """Fill one item of `ds_bert.dataset.format.INSTANCE_DTYPE`."""
    row.a_start = a_start
    row.a_length = a_length
    row.b_start = b_start
    row.b_length = b_length
    row.is_random_next = is_random_next


@compiled
def lay_out(tokens, row, special_ids, sequence):
    """Write a row as [CLS] A [SEP] B [SEP], or as [CLS] A [SEP] where B is empty.

    Args:
        tokens: token ids of the corpus.
        row: one item of `ds_bert.dataset.format.INSTANCE_DTYPE`.
        special_ids: ids of [CLS] and [SEP].
        sequence: integers [length of the sequence or more], written.

    Returns:
        length of the sequence, and position of the first [SEP].
    """
    separator = 1 + np.int64(row.a_length)
    last = separator + 1 + np.int64(row.b_length)
    sequence[0] = special_ids[0]
    _copy(tokens, np.int64(row.a_start), sequence[1:separator])
    sequence[separator] = special_ids[1]
    if row.b_length == 0:
        return separator + 1, separator
    _copy(tokens, np.int64(row.b_start), sequence[separator + 1 : last])
    sequence[last] = special_ids[1]
    return last + 1, separator


@compiled
def _copy(tokens, start, target):
    source = tokens[start : start + len(target)]  # from 0 on, so that the loop is vectorized
    for index in range(len(target)):
        target[index] = source[index]
