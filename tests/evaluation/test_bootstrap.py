"""Intervals by document: as wide as theory says, the same for two models, none of one document."""

import math

import numpy as np
import pytest

from ds_bert.evaluation.bootstrap import NUM_RESAMPLES, Ratio, estimates

RNG = np.random.default_rng(5)
SIZES = RNG.integers(1, 60, 500).astype(float)


def ratio(means, sizes=SIZES):
    return Ratio(means * sizes, sizes)


def test_as_wide_as_the_error_of_a_ratio_of_sums():
    """Against the linearised standard error, Cochran 1977, "Sampling Techniques", section 6.3."""
    means = RNG.normal(4, 1, len(SIZES))
    found = estimates({0: ratio(means)})[0]
    value = (means * SIZES).sum() / SIZES.sum()
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.count == SIZES.sum()
    error = math.sqrt(np.sum((SIZES * (means - value)) ** 2)) / SIZES.sum()
    low, high = found.interval
    assert low == pytest.approx(value - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(value + 1.96 * error, abs=0.25 * error)
    assert np.std(found.resamples) == pytest.approx(error, rel=0.1)


def test_whole_documents_are_drawn():
    """Every resample of equal documents is the mean of D of them, so a multiple of 1 / D."""
    found = estimates({0: Ratio(np.array([1.0, 0, 0, 0]), np.ones(4))})[0]
    assert set(found.resamples) == {0, 0.25, 0.5, 0.75, 1}
    share = np.mean(found.resamples == 0)
    assert share == pytest.approx(0.75**4, abs=0.06)


def test_a_figure_does_not_depend_on_what_stands_beside_it():
    means, others = RNG.normal(4, 1, (2, len(SIZES)))
    alone = estimates({0: ratio(means)})[0]
    beside = estimates({1: ratio(others), 0: ratio(means), 2: ratio(others)})[0]
    assert np.array_equal(alone.resamples, beside.resamples)
    assert alone.interval == beside.interval


def test_a_difference_of_pairs_is_surer_than_its_parts():
    hard = RNG.normal(4, 1, len(SIZES))  # what makes a document hard for both models
    noise = RNG.normal(0, 0.05, len(SIZES))
    found = estimates({"a": ratio(hard), "b": ratio(hard + 0.03 + noise)})
    difference = found["b"].minus(found["a"])
    low, high = difference.interval
    assert 0 < low < difference.value < high < 0.06
    assert found["a"].interval[1] - found["a"].interval[0] > 5 * (high - low)
    assert difference.p_value == pytest.approx(2 / (NUM_RESAMPLES + 1))


def test_no_difference_has_a_large_p_value():
    p_values = []
    for _ in range(40):
        first, second = RNG.normal(4, 1, (2, len(SIZES)))
        found = estimates({"a": ratio(first), "b": ratio(second)})
        p_values.append(found["b"].minus(found["a"]).p_value)
    assert np.mean(np.array(p_values) < 0.05) < 0.2  # 0.05 expected
    assert 0.25 < np.mean(p_values) < 0.75  # uniform
    same = estimates({"a": ratio(SIZES), "b": ratio(SIZES)})
    assert same["b"].minus(same["a"]).p_value == 1


def test_one_document_says_nothing_of_others():
    one = estimates({0: Ratio(np.array([3.0, 0]), np.array([2.0, 0]))})[0]
    assert one.value == 1.5
    assert all(map(math.isnan, one.interval))
    assert math.isnan(one.minus(one).p_value)
    assert estimates({}) == {}


def test_through_a_function():
    found = estimates({0: ratio(RNG.normal(4, 1, len(SIZES)))})[0]
    changed = found.through(math.exp)
    assert changed.value == math.exp(found.value)
    assert changed.interval == pytest.approx(list(map(math.exp, found.interval)), rel=1e-3)
