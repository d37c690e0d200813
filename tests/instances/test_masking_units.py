"""Runs of whole words as masks: lengths, shares and positions against the papers' formulas."""

import hashlib

import numpy as np
import pytest
from data_util import make_store

from ds_bert.dataset.options import MaskOptions, mask_fields
from ds_bert.errors import ConfigurationError
from ds_bert.instances.collate import collate, count_masked_tokens
from ds_bert.instances.masking import choose_masks, masking_rules, run_bounds
from ds_bert.rng.streams import MASKS, start_stream
from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

WORDS, PIECES = [*"abcdefgh"], [f"##{c}" for c in "abcdefgh"]
VOCABULARY = Vocabulary([*SPECIAL_TOKENS, *WORDS, *PIECES])
CLS, SEP, MASK, WORD, PIECE = 2, 3, 4, 5, 13
FORMULAS = {
    "ngram": np.array([6, 3, 2]) / 11,  # 1 / n, n = 1 to 3: Lan et al. 2020, section 4.1
    # Geometric with p = 0.2, at most 10: Joshi et al. 2020, section 3.1.
    "span": 0.2 * 0.8 ** np.arange(10) / (1 - 0.8**10),
}
RUNS = sorted(FORMULAS)
SIGMAS = 4.5  # seeds are fixed


def options(unit, **fields):
    defaults = {"masked_lm_prob": 0.15, "max_predictions_per_seq": 10**6}
    return MaskOptions(**{**defaults, **mask_fields(None, unit), **fields})


def masks(sequence, separator, masks_options, index=0):
    """Positions of the masks of one sequence, what the model sees, and the marks."""
    stream, size = np.empty(2, np.uint64), len(sequence)
    start_stream(stream, 7, MASKS, 0, index)
    positions, labels = np.empty((2, size), np.int64)
    scratch, marks = np.empty((2, size), np.int64), np.empty(size, np.uint8)
    shown = sequence.copy()
    rules = masking_rules(masks_options, VOCABULARY)
    count = choose_masks(stream, shown, separator, rules, scratch, marks, positions, labels)
    assert np.array_equal(sequence[positions[:count]], labels[:count])
    return positions[:count], shown, marks


def is_close(counts, shares, num_draws):
    """Whether counts are those of so many independent draws with the given shares."""
    error = np.sqrt(num_draws * shares * (1 - shares))
    return np.all(np.abs(counts - num_draws * shares) < SIGMAS * error)


def pair(a_length, b_length, words=(WORD,)):
    """Two segments made of a word of so many pieces again and again, and the first [SEP]."""
    a, b = (np.resize(words, length) for length in (a_length, b_length))
    return np.array([CLS, *a, SEP, *b, SEP], np.int32), 1 + a_length


@pytest.mark.parametrize("unit", RUNS)
def test_shares_of_lengths(unit):
    assert np.allclose(np.diff(run_bounds(unit), prepend=0), FORMULAS[unit], rtol=1e-12)
    assert run_bounds(unit)[-1] == 1


def test_the_mean_length_of_a_span_is_the_papers():
    assert FORMULAS["span"] @ np.arange(1, 11) == pytest.approx(3.8, abs=0.005)


@pytest.mark.parametrize("unit", RUNS)
def test_lengths_of_runs(unit):
    """So few in so long a text that they hardly meet, nor the ends of segment and share."""
    sequence, separator = pair(30_000, 30_000)
    lengths = []
    for index in range(200):
        positions, _, _ = masks(sequence, separator, options(unit, masked_lm_prob=0.004), index)
        breaks = np.flatnonzero(np.diff(positions) != 1)
        lengths += np.diff([-1, *breaks, len(positions) - 1]).tolist()
    most = len(FORMULAS[unit])
    counts = np.bincount(lengths, minlength=most + 1)[1 : most + 1]
    assert counts.sum() >= 0.99 * len(lengths) > 12_000  # the others are two that met
    assert is_close(counts, FORMULAS[unit], counts.sum())


@pytest.mark.parametrize("unit", RUNS)
def test_all_positions_are_as_likely(unit):
    """Those at the ends of a segment as well: what runs over an end goes on at the start."""
    sequence, separator = pair(40, 60)
    counts = np.zeros(len(sequence))
    for index in range(6000):
        counts[masks(sequence, separator, options(unit), index)[0]] += 1
    assert counts[[0, separator, -1]].sum() == 0
    text = np.delete(counts, [0, separator, len(counts) - 1])
    assert text.sum() == 6000 * 15  # round(103 x 0.15), never fewer with words of one piece
    assert is_close(text, 15 / 100, 6000)


@pytest.mark.parametrize("unit", ["word", *RUNS])
def test_the_share_is_as_near_as_with_whole_words(unit):
    """Words of 1 to 4 pieces; what no word fits into is left over."""
    words = [WORD, WORD, PIECE, WORD, PIECE, PIECE, WORD, PIECE, PIECE, PIECE]
    sequence, separator = pair(50, 70, words)
    counts = np.array(
        [len(masks(sequence, separator, options(unit), index)[0]) for index in range(500)]
    )
    assert counts.max() == 18 and counts.min() >= 18 - 3  # round(123 x 0.15)
    assert counts.mean() > 17.9
    few = [
        len(masks(sequence, separator, options(unit, max_predictions_per_seq=5), index)[0])
        for index in range(100)
    ]
    assert max(few) == 5


@pytest.mark.parametrize("unit", RUNS)
def test_words_stay_whole_and_runs_inside_a_segment(unit):
    sequence, separator = pair(9, 12, [WORD, PIECE, PIECE])
    for index in range(300):
        positions, shown, _ = masks(sequence, separator, options(unit, masked_lm_prob=0.5), index)
        starts = positions[sequence[positions] == WORD]
        assert sorted(positions) == sorted([*starts, *starts + 1, *starts + 2])
        assert shown[0] == CLS and shown[separator] == shown[-1] == SEP


def test_a_single_segment():
    sequence = np.array([CLS, *[WORD] * 30, SEP], np.int32)
    found = [masks(sequence, 31, options("span"), index)[0] for index in range(500)]
    assert {len(positions) for positions in found} == {5}
    assert set(np.concatenate(found)) == set(range(1, 31))


@pytest.mark.parametrize("unit", RUNS)
def test_a_span_is_shown_in_one_way_and_an_ngram_token_by_token(unit):
    """Half of them hidden, half left as they are: what is seen tells the draws."""
    sequence, separator = pair(60, 60)
    half = options(unit, mask_replace_prob=0.5, random_replace_prob=0.0)
    agree, hidden = [], []
    for index in range(300):
        positions, shown, marks = masks(sequence, separator, half, index)
        is_hidden = shown[positions] == MASK
        hidden.append(is_hidden.mean())
        runs = positions[1:] == positions[:-1] + 1
        assert (marks[positions[1:]][~runs] == 1).all(), "a draw for what goes on elsewhere"
        if unit == "span":
            runs &= marks[positions[1:]] != 1  # where another span begins
        agree.append((is_hidden[1:] == is_hidden[:-1])[runs])
    assert np.mean(hidden) == pytest.approx(0.5, abs=0.05)
    share = np.mean(np.concatenate(agree))
    assert share == 1 if unit == "span" else share == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("unit", RUNS)
def test_replacements_are_80_10_10(unit):
    sequence, separator = pair(60, 60)
    made = [masks(sequence, separator, options(unit), index)[:2] for index in range(3000)]
    seen = np.concatenate([shown[positions] for positions, shown in made])
    size, found = VOCABULARY.size, [np.mean(seen == MASK), np.mean(seen == WORD)]
    # Spans are fewer draws than tokens: 15,000 at least.
    assert np.allclose(found, [0.8 + 0.1 / size, 0.1 + 0.1 / size], atol=0.015)


@pytest.fixture(scope="module")
def table(tmp_path_factory, golden, vocab_file):
    inputs = [golden / "inputs" / name for name in ("en_a.txt", "en_b.txt")]
    folder = tmp_path_factory.mktemp("units") / "data"
    return make_store(folder, inputs, vocab_file, max_seq_length=(64,), dupe_factor=1).instances(64)


def batch(table, **fields):
    """All rows with other masks than the data set's own."""
    own = table.options.masks
    defaults = {
        "masked_lm_prob": own.masked_lm_prob,
        "max_predictions_per_seq": own.max_predictions_per_seq,
    }
    rows = np.arange(len(table))
    arguments = table, rows, rows % 3, 5, MaskOptions(**{**defaults, **fields})
    arrays = collate(*arguments)
    assert count_masked_tokens(*arguments) == len(arrays.masked_lm_labels)
    return arrays


def hash_of(arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array) for array in arrays)).hexdigest()


# Computed before there were other units.
BEFORE = {
    False: "7c5ac43150bff0572673536805d3f34fc0526835d41af6488bc2e13970947768",
    True: "15503f2f6d8e913c2f847676922441a19ebbb8691dbb90d548e42f3c24a51825",
}


@pytest.mark.parametrize("words", [False, True])
def test_pieces_and_words_have_the_very_masks_of_before(table, words):
    assert hash_of(batch(table, do_whole_word_mask=words)) == BEFORE[words]
    unit = "word" if words else "piece"
    assert hash_of(batch(table, **mask_fields(None, unit))) == BEFORE[words]


@pytest.mark.parametrize("unit", RUNS)
def test_batches(table, unit):
    arrays, words = (batch(table, **mask_fields(None, u)) for u in (unit, "word"))
    text = arrays.input_ids.copy()
    text[arrays.masked_lm_positions] = arrays.masked_lm_labels
    before = words.input_ids.copy()
    before[words.masked_lm_positions] = words.masked_lm_labels
    assert np.array_equal(text, before)
    found, expected = len(arrays.masked_lm_labels), len(words.masked_lm_labels)
    assert found == pytest.approx(expected, rel=0.02)
    runs = 1 + (np.diff(arrays.masked_lm_positions) != 1).sum()
    single_words = 1 + (np.diff(words.masked_lm_positions) != 1).sum()
    assert runs < (0.9 if unit == "ngram" else 0.6) * single_words


def test_what_a_user_says():
    assert mask_fields(None, None) == {"do_whole_word_mask": False, "masking_unit": None}
    assert mask_fields(None, "word") == mask_fields(True, None) == mask_fields(True, "word")
    assert mask_fields(None, "piece") == mask_fields(False, None)
    assert (
        MaskOptions(masked_lm_prob=0.1, max_predictions_per_seq=1, **mask_fields(True, "span")).unit
        == "span"
    )
    with pytest.raises(ConfigurationError, match="masking_unit: found 'words', expected piece,"):
        mask_fields(None, "words")
    for words, unit in ((True, "piece"), (False, "word"), (False, "span")):
        with pytest.raises(ConfigurationError, match="contradict each other"):
            mask_fields(words, unit)
