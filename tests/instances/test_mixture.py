"""Which row each sample is: exact shares, every row in turn, the same from any place on."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from ds_bert.dataset.format import Corpus
from ds_bert.errors import ConfigurationError
from ds_bert.instances.mixture import BY_SIZE, SampleOrder, resolve_weights
from ds_bert.rng.streams import permuted

SIZES = {"en": 700, "de": 50, "pt": 9}


def table(weights=(None, None, None)):
    """As much of an instance table as the order looks at."""
    corpora, first = [], 0
    for (name, size), weight in zip(SIZES.items(), weights, strict=True):
        corpora.append(Corpus(name, weight, first, first + size))
        first += size

    class Table(SimpleNamespace):
        def __len__(self):
            return first

    return Table(corpora=tuple(corpora), store=SimpleNamespace(folder="data"))


def corpus_of(rows):
    """Number of the corpus of each row."""
    return np.searchsorted(np.cumsum(list(SIZES.values())), rows, "right")


@pytest.mark.parametrize(
    ("weights", "slots"),
    [
        ((2.0, 1.0, 1.0), [2, 1, 1]),
        ((2.0, None, None), [2, 1, 1]),  # a weight beside none is 1
        ((0.7, 0.2, 0.1), [7, 2, 1]),
        ((30.0, 10.0, 0.0), [3, 1, 0]),
        ((1.0, 1000.0, 1.0), [1, 1000, 1]),
    ],
)
def test_shares_are_exact_in_every_block(weights, slots):
    order = SampleOrder.of(table(weights), None, seed=7)
    size = sum(slots)
    assert order.block_size == size
    rows, _ = order.locate(np.arange(6 * size))
    blocks = corpus_of(rows).reshape(6, size)
    assert [np.bincount(block, minlength=3).tolist() for block in blocks] == [slots] * 6
    if size > 3:
        assert len({tuple(block) for block in blocks}) > 1, "each block has an order of its own"


def test_every_row_of_a_corpus_comes_before_one_comes_again():
    order = SampleOrder.of(table((7.0, 1.0, 1.0)), None, seed=3)
    rows, epochs = order.locate(np.arange(9 * 900))  # 9 epochs of en, 18 of de, 100 of pt
    for name, (corpus, num_slots) in zip(
        SIZES, ((part.corpus, part.slots) for part in order.parts), strict=True
    ):
        mine = (corpus.first <= rows) & (rows < corpus.last)
        num_epochs = 900 * num_slots // corpus.size
        pairs = set(zip(rows[mine].tolist(), epochs[mine].tolist(), strict=True))
        expected = {
            (row, epoch) for row in range(corpus.first, corpus.last) for epoch in range(num_epochs)
        }
        assert pairs == expected and mine.sum() == len(expected), name
        assert (np.diff(epochs[mine]) >= -1).all(), "epochs overlap only where a block has both"


def test_a_sample_does_not_depend_on_where_reading_begins():
    order = SampleOrder.of(table((0.7, 0.2, 0.1)), None, seed=3)
    whole = np.stack(order.locate(np.arange(5000)))
    for first in (1, 9, 10, 777, 4321):
        assert (
            np.stack(order.locate(np.arange(first, first + 13))) == whole[:, first:][:, :13]
        ).all()
    far = np.array([10**15, 5, 10**15 + 1])
    assert order.locate(far)[0][1] == whole[0, 5]
    other = SampleOrder.of(table((0.7, 0.2, 0.1)), None, seed=4)
    assert (other.locate(np.arange(50))[0] != whole[0, :50]).any()


def test_without_weights_each_row_comes_once_in_an_epoch():
    for order in (SampleOrder.by_size(759, 5), SampleOrder.of(table(), None, 5)):
        samples = np.arange(2 * 759 - 3, 2 * 759 + 3)
        rows, epochs = order.locate(samples)
        expected = [int(permuted(np.array([s % 759]), 759, 5, s // 759)[0]) for s in samples]
        assert rows.tolist() == expected
        assert epochs.tolist() == [1, 1, 1, 2, 2, 2]
        assert str(order) == BY_SIZE and not order.is_mixed


def test_what_a_run_says_wins():
    corpora = table((2.0, 1.0, 1.0)).corpora
    assert resolve_weights(corpora, None, "data") == [2, 1, 1]
    assert resolve_weights(corpora, "de=0.1", "data") == [2, Fraction(1, 10), 1]
    assert resolve_weights(corpora, "size", "data") is None
    assert resolve_weights(table().corpora, "pt=3", "data") == [1, 1, 3]
    assert resolve_weights(table().corpora, None, "data") is None
    assert resolve_weights((), None, "data") is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("fr=1", "'fr=1'.*the corpora of data are en, de, pt"),
        ("en", "'en'"),
        ("en=many", "corpus_weights en: found 'many', expected a number"),
        ("en=-1", "expected a number, 0 or more"),
        ("en=1/0", "expected a number"),
        ("en=0,de=0,pt=0", "at least one weight above 0"),
        ("en=0.123456789012", "simple ratio"),
    ],
)
def test_weights_without_a_meaning(given, message):
    with pytest.raises(ConfigurationError, match=message):
        SampleOrder.of(table(), given, seed=1)


def test_weights_for_data_without_corpora():
    with pytest.raises(ConfigurationError, match=r"not divided into corpora.*NAME=INPUT:WEIGHT"):
        resolve_weights((), "en=1", "data")


def test_what_is_told():
    told = list(SampleOrder.of(table((2.0, 1.0, 0.0)), None, 1).describe(2100, table().corpora))
    assert told == [
        "en 66.7% of samples, 2.00 epochs in this run",
        "de 33.3% of samples, 14.00 epochs in this run",
    ]
    told = list(SampleOrder.of(table(), None, 1).describe(759 * 2, table().corpora))
    assert told[0] == "en 92.2% of samples, 2.00 epochs in this run"
    assert str(SampleOrder.of(table((2.0, 1.0, 0.0)), None, 1)) == "en 2, de 1"


def test_corpora_of_one_size_have_orders_of_their_own():
    corpora = (Corpus("a", 1.0, 0, 90), Corpus("b", 1.0, 90, 180))
    same = SimpleNamespace(corpora=corpora, store=SimpleNamespace(folder="data"))
    rows, _ = SampleOrder.of(same, None, seed=3).locate(np.arange(180))
    assert (rows[rows < 90] != rows[rows >= 90] - 90).sum() > 80
