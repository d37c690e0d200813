"""The choice of masks with a counter-based stream (Google's own draws: test_exact.py)."""

import numpy as np
import pytest

from ds_bert.dataset.options import InstanceOptions
from ds_bert.instances.google_masks import google_masks
from ds_bert.instances.masking import (
    MaskingRules,
    choose_masks,
    masking_rules,
    num_predictions,
)
from ds_bert.rng.mersenne_twister import seeded
from ds_bert.rng.streams import MASKS, start_stream
from ds_bert.tokenizer.vocabulary import Vocabulary

TOKENS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefgh",
    *(f"##{c}" for c in "abcdefgh"),
]
WORD, PIECE, MASK_ID = 5, 13, 4


@pytest.fixture
def rules():
    def make(**options) -> MaskingRules:
        defaults = {
            "max_seq_length": 64,
            "max_predictions_per_seq": 20,
            "masked_lm_prob": 0.15,
            "short_seq_prob": 0.1,
            "dupe_factor": 1,
            "random_seed": 0,
            "do_whole_word_mask": False,
            "do_lower_case": True,
            "mode": "fast",
        }
        options = InstanceOptions(**(defaults | options))
        return masking_rules(options.masks, Vocabulary(TOKENS), options.mode == "exact")

    return make


def masks(rules, a_tokens, b_tokens, index=0):
    """Positions of the masks of one pair and what the model sees there."""
    stream = np.empty(2, np.uint64)
    start_stream(stream, 7, MASKS, 0, index)
    sequence = np.array([2, *a_tokens, 3, *b_tokens, 3], np.int32)
    text = sequence.copy()
    positions, labels = np.empty((2, 64), np.int64)
    scratch, is_masked = np.empty((2, 64), np.int64), np.empty(64, np.uint8)
    separator = 1 + len(a_tokens)
    count = choose_masks(stream, sequence, separator, rules, scratch, is_masked, positions, labels)
    positions = positions[:count]
    assert labels[:count].tolist() == text[positions].tolist()
    untouched = np.delete(np.arange(len(text)), positions)
    assert np.array_equal(sequence[untouched], text[untouched])
    return positions.tolist(), sequence[positions].tolist()


@pytest.mark.parametrize(
    ("num_tokens", "prob", "limit", "expected"),
    [
        (7, 0.15, 20, 2),  # 10 x 0.15 = 1.5: half to even
        (27, 0.15, 20, 4),  # 30 x 0.15 = 4.5: half to even
        (2, 0.15, 20, 1),
        (125, 0.15, 20, 19),
        (509, 0.15, 20, 20),
        (2, 0.99, 20, 2),  # no more than there are
    ],
)
def test_number_of_predictions(num_tokens, prob, limit, expected):
    assert num_predictions(num_tokens + 3, num_tokens, prob, limit) == expected


def test_positions_are_ascending_different_and_never_special(rules):
    for index in range(200):
        positions, _ = masks(rules(masked_lm_prob=0.5), [WORD] * 10, [WORD] * 12, index)
        assert positions == sorted(set(positions))
        assert len(positions) == 12  # round(25 / 2)
        assert not {0, 11, 24} & set(positions)
        assert min(positions) > 0
        assert max(positions) < 24


def test_every_position_is_as_likely(rules):
    counts = np.zeros(25)
    for index in range(4000):
        counts[masks(rules(), [WORD] * 10, [WORD] * 12, index)[0]] += 1
    expected = 4000 * 4 / 22  # round(25 x 0.15) masks among 22 tokens
    assert np.abs(counts[counts > 0] - expected).max() < 5 * np.sqrt(expected)


def test_replacements_are_80_10_10(rules):
    made = [masks(rules(masked_lm_prob=0.9), [WORD] * 10, [WORD] * 10, i)[1] for i in range(1000)]
    replacements = np.concatenate(made)
    n, words = len(replacements), len(TOKENS)
    for share, found in (
        (0.8 + 0.1 / words, (replacements == MASK_ID).mean()),
        (0.1 + 0.1 / words, (replacements == WORD).mean()),
        (0.1 * (words - 2) / words, (~np.isin(replacements, (MASK_ID, WORD))).mean()),
    ):
        assert abs(found - share) < 5 * np.sqrt(share * (1 - share) / n)


def test_whole_words_are_masked_as_a_whole_or_not_at_all(rules):
    a_tokens = [WORD, PIECE, PIECE, WORD, WORD, PIECE]
    b_tokens = [WORD, PIECE, WORD]
    words = [{1, 2, 3}, {4}, {5, 6}, {8, 9}, {10}]
    seen = set()
    for index in range(300):
        positions, _ = masks(
            rules(do_whole_word_mask=True, masked_lm_prob=0.3), a_tokens, b_tokens, index
        )
        for word in words:
            assert word <= set(positions) or not word & set(positions)
        assert 1 <= len(positions) <= 4
        seen |= set(positions)
    assert seen == set().union(*words)


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_a_piece_at_the_start_of_b(rules, mode):
    """It starts a word in fast mode and goes on with A's last word in exact mode."""
    some = rules(do_whole_word_mask=True, masked_lm_prob=0.4, mode=mode)
    text = np.array([2, WORD, WORD, 3, PIECE, WORD, 3], np.int32)
    together = apart = 0
    for index in range(200):
        if mode == "fast":
            positions, _ = masks(some, [WORD, WORD], [PIECE, WORD], index)
        else:
            found, replacements, scratch = np.empty(8, int), np.empty(8, int), np.empty((2, 8), int)
            count = google_masks(
                seeded(index), text.copy(), 3, some, scratch, np.empty(8, np.uint8), found,
                replacements,
            )  # fmt: skip
            positions = found[:count].tolist()
        together += {2, 4} <= set(positions)
        apart += len({2, 4} & set(positions)) == 1
    assert (apart == 0 and together > 0) if mode == "exact" else apart > 0
