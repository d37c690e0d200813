"""The choice of masked tokens in compiled code, for the batches of training.

Sources: single tokens and whole words as google-research/bert, create_pretraining_data.py
(`create_masked_lm_predictions`); n-grams: Lan et al. 2020, "ALBERT", section 4.1; spans: Joshi et
al. 2020, "SpanBERT", section 3.1.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
from ds_bert.dataset.options import NGRAM, PIECE, SPAN, MaskOptions
from ds_bert.rng.streams import next_index, next_uniform
from ds_bert.tokenizer.vocabulary import Vocabulary

# Shares of runs of 1, 2, ... words before they are made to sum up to 1.
_RUN_SHARES = {
    NGRAM: 1 / np.arange(1, 4),
    SPAN: 0.8 ** np.arange(10),  # geometric, p = 0.2; cut off at 10 the mean is the paper's 3.8
}
_MASKED, _SAME_SPAN = 1, 2  # the latter is shown like the token before it


class MaskingRules(NamedTuple):
    """What the choice of masks depends on, for compiled code."""

    max_predictions_per_seq: int
    masked_lm_prob: float
    has_words: bool  # or single pieces
    words_cross_segments: bool  # a "##" piece at the start of B goes on with the last word of A
    run_bounds: NDArray[np.float64]  # a draw from [0, 1) below item n: a run of n + 1 words at most
    is_span_alike: bool  # one draw decides how all tokens of a run are shown
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
        options.unit != PIECE,
        words_cross_segments,
        run_bounds(options.unit),
        options.unit == SPAN,
        float(options.mask_replace_prob),
        1 - float(options.random_replace_prob),
        vocabulary.mask_id,
        vocabulary.is_continuation,
        vocabulary.replacement_ids,
    )


@cache
def run_bounds(unit: str) -> NDArray[np.float64]:
    """Shares of the runs of at most 1, 2, ... words; the last is 1. Empty: no runs of words."""
    shares = _RUN_SHARES.get(unit, np.empty(0))
    bounds = np.cumsum(shares) / shares.sum()
    bounds[-1:] = 1
    return bounds


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

    The distribution of single tokens and whole words is that of Google's script, the draws are not.

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
    num_text = num_tokens(sequence, separator)
    wanted = num_predictions(
        len(sequence), num_text, rules.masked_lm_prob, rules.max_predictions_per_seq
    )
    if rules.has_words:
        words, ends = scratch
        words = words[: split_words(sequence, separator, rules, words, ends)]
        if len(rules.run_bounds) > 0:
            last = len(sequence) - 1
            _choose_runs(stream, words, ends, separator, last, wanted, rules, is_masked)
        else:
            _choose_words(stream, words, ends, wanted, is_masked)
    else:
        _choose_tokens(stream, num_text, separator, wanted, is_masked)
    return _replace(stream, sequence, rules, is_masked, positions, labels)


@compiled
def num_tokens(sequence, separator):
    """Tokens of the text in [CLS] A [SEP] B [SEP], or in [CLS] A [SEP]."""
    return len(sequence) - (2 if separator == len(sequence) - 1 else 3)


@compiled
def _choose_tokens(stream, num_text, separator, wanted, is_masked):
    """Draw different positions one by one; with few of them, drawing again is rare."""
    while wanted > 0:
        position = 1 + next_index(stream, num_text)
        position += position >= separator
        wanted -= 1 - is_masked[position]
        is_masked[position] = _MASKED


@compiled
def _choose_words(stream, words, ends, wanted, is_masked):
    """Take words in random order until there are enough, passing over one too long for the rest."""
    for drawn in range(len(words)):
        if wanted == 0:
            break
        word = _draw_word(stream, words, drawn)
        if ends[word] - word <= wanted:
            wanted -= ends[word] - word
            is_masked[word : ends[word]] = _MASKED


@compiled
def _choose_runs(stream, words, ends, separator, last, wanted, rules, is_masked):
    """Take runs of words that begin at words in random order, until there are enough tokens.

    A run ends early at a word that is masked or too long for the rest. At the end of its segment it
    goes on at the segment's start: so all positions are as likely, as if a longer text had been
    masked and then cut.
    """
    following = _SAME_SPAN if rules.is_span_alike else _MASKED
    for drawn in range(len(words)):
        if wanted == 0:
            break
        word = _draw_word(stream, words, drawn)
        if is_masked[word]:
            continue
        left, mark = _draw_size(stream, rules.run_bounds), _MASKED
        while left > 0 and not is_masked[word] and ends[word] - word <= wanted:
            wanted -= ends[word] - word
            is_masked[word : ends[word]] = following
            is_masked[word] = mark
            word, mark, left = ends[word], following, left - 1
            if word == separator:
                word, mark = 1, _MASKED
            elif word == last:
                word, mark = separator + 1, _MASKED


@compiled
def _draw_word(stream, words, drawn):
    """The next one of `words` in random order, of which the first `drawn` are drawn."""
    other = drawn + next_index(stream, len(words) - drawn)
    word = words[other]
    words[other] = words[drawn]
    return word


@compiled
def _draw_size(stream, bounds):
    draw, size = next_uniform(stream), 1
    while draw >= bounds[size - 1]:
        size += 1
    return size


@compiled
def _replace(stream, sequence, rules, is_masked, positions, labels):
    """Write what the model sees at the masked positions; returns their number."""
    count, draw = 0, 0.0
    for position in range(len(sequence)):
        if is_masked[position]:
            if is_masked[position] != _SAME_SPAN:
                draw = next_uniform(stream)
            positions[count] = position
            labels[count] = sequence[position]
            sequence[position] = _replacement(stream, draw, sequence[position], rules)
            count += 1
    return count


@compiled
def _replacement(stream, draw, token, rules):
    """[MASK], the token itself, or any entry of the vocabulary."""
    if draw < rules.below_mask:
        return rules.mask_id
    if draw < rules.below_same:
        return np.int64(token)
    return rules.replacement_ids[next_index(stream, len(rules.replacement_ids))]


@compiled
def split_words(sequence, separator, rules, words, ends):
    """Positions of the words' first tokens; `ends[first]` is the position after the last one.

    Without whole words every token is one. Returns the number of words.
    """
    num_words = 0
    for position in range(1, len(sequence) - 1):
        if position == separator:
            continue
        goes_on = (
            rules.has_words
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
