"""The choice of masked tokens, in compiled code, for either kind of random generator.

Source: google-research/bert, create_pretraining_data.py (`create_masked_lm_predictions`).
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ds_bert.instance_options import NUM_SPECIAL_TOKENS, InstanceOptions
from ds_bert.random_source import randbelow, random, shuffle
from ds_bert.vocabulary import Vocabulary


class MaskingRules(NamedTuple):
    """What the choice of masks depends on, for compiled code."""

    max_predictions_per_seq: int
    masked_lm_prob: float
    do_whole_word_mask: bool
    words_cross_segments: bool  # a "##" piece at the start of B goes on with the last word of A
    mask_id: int
    is_continuation: NDArray[np.bool_]  # [V]
    replacement_ids: NDArray[np.int64]  # [V], what a random replacement is drawn from


def masking_rules(options: InstanceOptions, vocabulary: Vocabulary) -> MaskingRules:
    """Collect the rules of one instance table."""
    return MaskingRules(
        options.max_predictions_per_seq,
        float(options.masked_lm_prob),
        options.do_whole_word_mask,
        options.mode == "exact",
        vocabulary.mask_id,
        vocabulary.is_continuation,
        vocabulary.replacement_ids,
    )


@njit(cache=True, nogil=True)
def num_predictions(num_tokens, masked_lm_prob, max_predictions_per_seq):
    """Tokens to mask in a pair of `num_tokens` tokens of text; whole words may leave fewer.

    The share is of the sequence with its special tokens, with Python's rounding (half to even).
    """
    wanted = np.int64(np.rint((num_tokens + NUM_SPECIAL_TOKENS) * masked_lm_prob))
    return min(max_predictions_per_seq, max(1, wanted), num_tokens)


@njit(cache=True, nogil=True)
def choose_masks(state, a_tokens, b_tokens, rules, scratch, positions, replacements):
    """Choose the masked tokens of one pair.

    Args:
        state: state of the random generator, see `ds_bert.random_source`.
        a_tokens: tokens of segment A.
        b_tokens: tokens of segment B.
        rules: from `masking_rules`.
        scratch: int64 [2, sequence length or more], overwritten.
        positions: written: ascending positions in [CLS] A [SEP] B [SEP].
        replacements: written: the id that the model sees there.

    Returns:
        Number of masked tokens.
    """
    words, ends = scratch
    num_words = _split_words(a_tokens, b_tokens, rules, words, ends)
    shuffle(state, words[:num_words])
    num_tokens = len(a_tokens) + len(b_tokens)
    wanted = num_predictions(num_tokens, rules.masked_lm_prob, rules.max_predictions_per_seq)
    separator = 1 + len(a_tokens)
    count = 0
    for word in words[:num_words]:
        if count >= wanted:
            break
        size = ends[word] - word - (word < separator < ends[word])
        if count + size > wanted:
            continue
        for position in range(word, ends[word]):
            if position == separator:
                continue
            token = token_at(a_tokens, b_tokens, position)
            _insert(positions, replacements, count, position, _replacement(state, token, rules))
            count += 1
    return count


@njit(cache=True, nogil=True)
def token_at(a_tokens, b_tokens, position):
    """Token of the text at a position in [CLS] A [SEP] B [SEP]."""
    if position <= len(a_tokens):
        return np.int64(a_tokens[position - 1])
    return np.int64(b_tokens[position - len(a_tokens) - 2])


@njit(cache=True, nogil=True)
def _split_words(a_tokens, b_tokens, rules, words, ends):
    """Positions of the words' first tokens; `ends[first]` is the position after the last one.

    Without whole word masking every token is a word.
    """
    num_words = 0
    separator = 1 + len(a_tokens)
    for position in range(1, separator + 1 + len(b_tokens)):
        if position == separator:
            continue
        goes_on = (
            rules.do_whole_word_mask
            and num_words > 0
            and (rules.words_cross_segments or position != separator + 1)
            and rules.is_continuation[token_at(a_tokens, b_tokens, position)]
        )
        if not goes_on:
            words[num_words] = position
            num_words += 1
        ends[words[num_words - 1]] = position + 1
    return num_words


@njit(cache=True, nogil=True)
def _replacement(state, token, rules):
    if random(state) < 0.8:
        return rules.mask_id
    if random(state) < 0.5:
        return token
    return rules.replacement_ids[randbelow(state, len(rules.replacement_ids))]


@njit(cache=True, nogil=True)
def _insert(positions, replacements, count, position, replacement):
    """Insert into the first `count` items, which are sorted by position."""
    place = count
    while place > 0 and positions[place - 1] > position:
        positions[place] = positions[place - 1]
        replacements[place] = replacements[place - 1]
        place -= 1
    positions[place] = position
    replacements[place] = replacement
