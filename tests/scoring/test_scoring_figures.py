"""Accuracy and macro F1, beside a computation by hand and one of their resamples."""

import numpy as np
import pytest

from ds_bert.scoring.figures import Truth, figures, figures_of_one


def by_hand(labels, guess, classes):
    """Macro F1 over those of `classes` that there are."""
    found = []
    for number in classes:
        right = sum(a == b == number for a, b in zip(labels, guess, strict=True))
        said = sum(one == number for one in guess)
        are = sum(one == number for one in labels)
        if said + are:
            precision, recall = right / max(1, said), right / max(1, are)
            found.append(2 * precision * recall / max(1e-9, precision + recall))
    return np.mean(found)


@pytest.fixture(scope="module")
def case():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    guesses = [np.where(random.random(200) < share, labels, 2) for share in (0.5, 0.7)]
    return labels, guesses


@pytest.mark.parametrize(("third", "classes"), [("O", [0, 1]), ("c", [0, 1, 2])])
def test_equal_to_a_computation_by_hand(case, third, classes):
    labels, guesses = case
    truth = Truth(["a", "b", third, "never"], labels, np.arange(200) // 4)
    found = figures(truth, guesses)
    expected = [by_hand(labels, guess, classes) for guess in guesses]
    assert found["macro_f1"].value == pytest.approx(np.mean(expected), abs=1e-9)
    assert found["accuracy"].value == pytest.approx(np.mean([g == labels for g in guesses]))
    for guess, value in zip(guesses, expected, strict=True):
        assert figures_of_one(truth, guess)["macro_f1"] == pytest.approx(value, abs=1e-9)


def test_intervals_draw_examples(case):
    labels, guesses = case
    every = np.arange(200)
    alone = figures(Truth(["a", "b", "c"], labels, every), guesses[:1])
    # Each item ten times, as words of one example: no more is known than before.
    ten = [np.repeat(one, 10) for one in (labels, every, guesses[0])]
    same = figures(Truth(["a", "b", "c"], ten[0], ten[1]), ten[2:])
    for name in alone:
        assert same[name].interval == pytest.approx(alone[name].interval)
    share = alone["accuracy"].value
    spread = 2 * 1.96 * (share * (1 - share) / 200) ** 0.5
    low, high = alone["accuracy"].interval
    assert high - low == pytest.approx(spread, rel=0.1)
    low, high = alone["macro_f1"].interval
    assert low < alone["macro_f1"].value < high
