"""The choice of masked tokens in compiled code: for batches, and as Google's script does it.

Source: google-research/bert, create_pretraining_data.py (`create_masked_lm_predictions`).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
from ds_bert.dataset.options import MaskOptions
from ds_bert.rng.mersenne_twister import randbelow, random, shuffle
from ds_bert.rng.streams import next_index, next_uniform
from ds_bert.tokenizer.vocabulary import Vocabulary


class MaskingRules(NamedTuple):
    """What the choice of masks depends on, for compiled code."""

    max_predictions_per_seq: int
    masked_lm_prob: float
    do_whole_word_mask: bool
    words_cross_segments: bool  # a "##" piece at the start of B goes on with the last word of A
    below_mask: float  # a draw from [0, 1) below this: [MASK]
    below_same: float  # otherwise, below this: the token itself; from it on: a random one
    mask_id: int
    is_continuation: NDArray[np.bool_]  # [V]
    replacement_ids: NDArray[np.int64]  # [V], what a random replacement is drawn from


def masking_rules(
    options: MaskOptions, vocabulary: Vocabulary, words_cross_segments: bool = False
) -> MaskingRules:
    """Collect the rules for compiled code; words cross segments in exact mode, as Google's do."""
    return MaskingRules(
        options.max_predictions_per_seq,
        float(options.masked_lm_prob),
        options.do_whole_word_mask,
        words_cross_segments,
        float(options.mask_replace_prob),
        1 - float(options.random_replace_prob),
        vocabulary.mask_id,
        vocabulary.is_continuation,
        vocabulary.replacement_ids,
    )


@compiled
def num_predictions(length, num_tokens, masked_lm_prob, max_predictions_per_seq):
    """Tokens to mask in a sequence with `num_tokens` tokens of text; whole words may leave fewer.

    The share is of the length with special tokens, with Python's rounding (half to even).
    """
    wanted = np.int64(np.rint(length * masked_lm_prob))
    return min(max_predictions_per_seq, max(1, wanted), num_tokens)


@compiled
def choose_masks(stream, sequence, separator, rules, scratch, is_masked, positions, labels):
    """Mask one sequence in place, with draws from a counter-based stream.

    The distribution is that of Google's script, the draws are not.

    Args:
        stream: see `ds_bert.rng.streams`.
        sequence: integers [L], [CLS] A [SEP] B [SEP] or [CLS] A [SEP]; masks are written into it.
        separator: position of the first [SEP].
        rules: from `masking_rules`.
        scratch: int64 [2, L or more], overwritten.
        is_masked: uint8 [L or more], overwritten.
        positions: written: ascending positions of the masked tokens.
        labels: written: the tokens that stood there.

    Returns:
        Number of masked tokens.
    """
    is_masked[: len(sequence)] = 0
    num_tokens = _num_tokens(sequence, separator)
    wanted = num_predictions(
        len(sequence), num_tokens, rules.masked_lm_prob, rules.max_predictions_per_seq
    )
    if rules.do_whole_word_mask:
        words, ends = scratch
        num_words = _split_words(sequence, separator, rules, words, ends)
        _choose_words(stream, words[:num_words], ends, wanted, is_masked)
    else:
        _choose_tokens(stream, num_tokens, separator, wanted, is_masked)
    count = 0
    for position in range(len(sequence)):
        if is_masked[position]:
            positions[count] = position
            labels[count] = sequence[position]
            sequence[position] = _replacement(stream, sequence[position], rules)
            count += 1
    return count


@compiled
def _num_tokens(sequence, separator):
    """Tokens of the text in [CLS] A [SEP] B [SEP], or in [CLS] A [SEP]."""
    return len(sequence) - (2 if separator == len(sequence) - 1 else 3)


@compiled
def _choose_tokens(stream, num_tokens, separator, wanted, is_masked):
    """Draw different positions one by one; with few of them, drawing again is rare."""
    while wanted > 0:
        position = 1 + next_index(stream, num_tokens)
        position += position >= separator
        wanted -= 1 - is_masked[position]
        is_masked[position] = 1


@compiled
def _choose_words(stream, words, ends, wanted, is_masked):
    """Take words in random order until there are enough, passing over one too long for the rest."""
    for drawn in range(len(words)):
        if wanted == 0:
            break
        other = drawn + next_index(stream, len(words) - drawn)
        word = words[other]
        words[other] = words[drawn]
        if ends[word] - word <= wanted:
            wanted -= ends[word] - word
            is_masked[word : ends[word]] = 1


@compiled
def _replacement(stream, token, rules):
    """[MASK], the token itself, or any entry of the vocabulary."""
    draw = next_uniform(stream)
    if draw < rules.below_mask:
        return rules.mask_id
    if draw < rules.below_same:
        return np.int64(token)
    return rules.replacement_ids[next_index(stream, len(rules.replacement_ids))]


@compiled
def google_masks(state, sequence, separator, rules, scratch, is_masked, positions, replacements):
    """Mask one sequence in place, with the draws of Google's script in its order.

    Args:
        state: state of the random generator, see `ds_bert.rng.mersenne_twister`.
        sequence: integers [L], [CLS] A [SEP] B [SEP]; masks are written into it.
        separator: position of the first [SEP].
        rules: from `masking_rules`.
        scratch: int64 [2, L or more], overwritten.
        is_masked: uint8 [L or more], overwritten.
        positions: written: ascending positions of the masked tokens.
        replacements: written: the ids that stand there now.

    Returns:
        Number of masked tokens.
    """
    words, ends = scratch
    num_words = _split_words(sequence, separator, rules, words, ends)
    shuffle(state, words[:num_words])
    num_tokens = _num_tokens(sequence, separator)
    wanted = num_predictions(
        len(sequence), num_tokens, rules.masked_lm_prob, rules.max_predictions_per_seq
    )
    is_masked[: len(sequence)] = 0
    count = 0
    for word in words[:num_words]:
        if count >= wanted:
            break
        size = ends[word] - word - (word < separator < ends[word])
        if count + size > wanted:
            continue
        for position in range(word, ends[word]):
            if position != separator:
                sequence[position] = _google_replacement(state, sequence[position], rules)
                is_masked[position] = 1
        count += size
    count = 0
    for position in range(len(sequence)):
        if is_masked[position]:
            positions[count] = position
            replacements[count] = sequence[position]
            count += 1
    return count


@compiled
def _google_replacement(state, token, rules):
    if random(state) < 0.8:
        return rules.mask_id
    if random(state) < 0.5:
        return np.int64(token)
    return rules.replacement_ids[randbelow(state, len(rules.replacement_ids))]


@compiled
def _split_words(sequence, separator, rules, words, ends):
    """Positions of the words' first tokens; `ends[first]` is the position after the last one.

    Without whole word masking every token is a word.
    """
    num_words = 0
    for position in range(1, len(sequence) - 1):
        if position == separator:
            continue
        goes_on = (
            rules.do_whole_word_mask
            and num_words > 0
            and (rules.words_cross_segments or position != separator + 1)
            and sequence[position] < len(rules.is_continuation)  # a damaged token
            and rules.is_continuation[sequence[position]]
        )
        if not goes_on:
            words[num_words] = position
            num_words += 1
        ends[words[num_words - 1]] = position + 1
    return num_words
