"""What needs no learning, against plain counting over everything that may happen."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from data_util import make_store

from ds_bert.dataset.store import unigram_entropy
from ds_bert.run_report import baselines
from ds_bert.run_report.baselines import bigram_loss, lengths_accuracy, no_context_loss, of_data_set


@pytest.mark.parametrize("shares", [(0.8, 0.1), (1.0, 0.0), (0.8, 0.0), (0.0, 1.0), (0.6, 0.3)])
def test_loss_without_context(shares):
    """By the joint table of labels and of what is shown: the label's entropy, given the other."""
    counts = np.array([50, 30, 15, 5, 0])
    mask, random = shares
    p, size = counts / counts.sum(), len(counts)
    same = max(0.0, 1 - mask - random)
    joint = np.zeros((size, size + 1))  # the last column is [MASK]
    for label in range(size):
        joint[label, size] += p[label] * mask
        joint[label, label] += p[label] * same
        joint[label, :size] += p[label] * random / size
    shown = joint.sum(0)
    expected = -sum(
        joint[a, b] * math.log(joint[a, b] / shown[b])
        for a in range(size)
        for b in range(size + 1)
        if joint[a, b] > 0
    )
    assert no_context_loss(counts, mask, random) == pytest.approx(expected, rel=1e-9)


def test_bigram_loss():
    """One pair after the other, with that pair left out of the counts."""
    tokens = np.random.default_rng(1).zipf(1.5, 400) % 30
    pairs, single = Counter(pairwise(tokens.tolist())), Counter(tokens.tolist())
    total = 0.0
    for pair in pairwise(tokens.tolist()):
        rest = pairs - Counter([pair])
        after = {b: n for (a, b), n in rest.items() if a == pair[0] and n > 0}
        size, frequency = sum(after.values()), single[pair[1]] / len(tokens)
        if size == 0:
            total -= math.log(frequency)
            continue
        own = max(after.get(pair[1], 0) - 0.75, 0) if pair[1] in after else 0.0
        total -= math.log((own + 0.75 * len(after) * frequency) / size)
    assert bigram_loss(tokens, 30) == pytest.approx(total / (len(tokens) - 1), rel=1e-9)


def test_a_text_in_which_every_token_says_the_next_one():
    tokens = np.arange(10_000) % 50
    assert bigram_loss(tokens, 50) < 0.05 < math.log(50)
    shuffled = np.random.default_rng(0).permutation(tokens)
    assert bigram_loss(shuffled, 50) == pytest.approx(math.log(50), abs=0.2)


def test_lengths():
    random = np.random.default_rng(2)
    a, b, labels = random.integers(5, 60, (3, 4000))
    labels = labels % 2
    assert lengths_accuracy(a, b, labels) == pytest.approx(0.5, abs=0.04)
    assert lengths_accuracy(a, np.where(labels, 60 - a, b), labels) > 0.7
    assert lengths_accuracy(a, b, (a > 30).astype(int)) > 0.95
    assert lengths_accuracy(a, a, np.ones_like(a)) == 1.0


def test_of_a_data_set(tmp_path, golden, vocab_file, monkeypatch):
    store = make_store(tmp_path / "data", golden / "inputs/en_a.txt", vocab_file)
    found = of_data_set(str(tmp_path / "data"), 128)
    assert found.unigram == pytest.approx(unigram_entropy(store), rel=1e-12)
    assert found.no_context < found.unigram < math.log(store.vocabulary.size)
    assert found.bigram == pytest.approx(found.unigram, abs=0.2)  # of 1,492 tokens: no more
    labels = store.instances(128).rows["is_random_next"]
    share = labels.mean()
    assert found.pair_majority == pytest.approx(max(share, 1 - share))
    assert found.num_tokens == len(store.tokens) and found.num_sequences == len(labels)
    assert found.pieces_per_word == store.meta["report"]["pieces_per_word"]
    monkeypatch.setattr(baselines, "_TOKENS", len(store.tokens) // 2)
    monkeypatch.setattr(baselines, "_CHUNK", 64)
    sampled = of_data_set(str(tmp_path / "data"), 128)
    assert sampled.unigram == pytest.approx(found.unigram, abs=0.5)
    assert sampled.num_tokens == found.num_tokens


def test_data_without_pairs(mlm_table):
    found = of_data_set(str(mlm_table.store.folder), 64)
    assert found.pair_majority is None and found.unigram > 0
