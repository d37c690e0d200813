"""What lengths and shared tokens tell of a pair, on pairs made to be told by them or not."""

from dataclasses import replace

import numpy as np
import pytest

from ds_bert.evaluation.baseline import (
    baseline_figures,
    cross_fitted,
    length_features,
    logistic_regression,
    overlap_features,
)
from ds_bert.evaluation.items import Items
from ds_bert.evaluation.slices import tokens_per_million
from ds_bert.model.batch import SEQUENCES

NUM_PAIRS, NUM_DOCUMENTS = 1000, 50


@pytest.fixture
def table(golden_table):
    """Pairs of equal lengths from the start of the text, all labelled 0."""
    rng = np.random.default_rng(3)
    rows = np.resize(golden_table.rows, NUM_PAIRS).copy()
    rows["a_start"], rows["b_start"] = rng.integers(0, 5000, (2, NUM_PAIRS))
    rows["a_length"], rows["b_length"], rows["is_random_next"] = 20, 20, 0
    return replace(golden_table, rows=rows)


def items_of(table, correct):
    """A model that is right where `correct` says so; document d has every 50th pair."""
    sequences = {"row": np.arange(NUM_PAIRS), "label": table.rows["is_random_next"].astype(int)}
    found = Items(table, {"nsp": SEQUENCES}, sequences, {}, {}, {"nsp": correct})
    found.__dict__["_documents"] = np.arange(NUM_PAIRS) % NUM_DOCUMENTS
    return found


def test_solved_by_length_alone(table):
    labels = np.random.default_rng(0).integers(0, 2, NUM_PAIRS)
    table.rows["is_random_next"] = labels
    table.rows["b_length"] = np.where(labels, 8, 30)
    found = baseline_figures(items_of(table, np.arange(NUM_PAIRS) % 10 > 0))["nsp_baseline"]
    assert found["length_accuracy"] > 0.99
    low, high = found["gain_interval"]
    assert found["gain"] == pytest.approx(0.9 - found["length_accuracy"], abs=0.01)
    assert low <= found["gain"] <= high < 0
    assert found["gain_p_value"] < 0.01


def test_solved_by_shared_tokens_alone(table):
    labels = np.random.default_rng(0).integers(0, 2, NUM_PAIRS)
    table.rows["is_random_next"] = labels
    table.rows["b_start"] = np.where(labels, table.rows["b_start"], table.rows["a_start"])
    found = baseline_figures(items_of(table, np.ones(NUM_PAIRS, bool)))["nsp_baseline"]
    assert found["length_and_overlap_accuracy"] > 0.97
    assert found["length_accuracy"] < 0.56
    assert found["gain"] == pytest.approx(1 - found["length_and_overlap_accuracy"])


def test_nothing_tells(table):
    table.rows["is_random_next"] = np.random.default_rng(1).integers(0, 2, NUM_PAIRS)
    found = baseline_figures(items_of(table, np.ones(NUM_PAIRS, bool)))["nsp_baseline"]
    for name in ("length_accuracy", "length_and_overlap_accuracy"):
        assert 0.44 < found[name] < 0.56
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high
    assert found["gain_interval"][0] > 0.3


def test_no_document_judges_itself():
    """A feature that names the document and tells its label is worth nothing elsewhere."""
    documents = np.repeat(np.arange(40), 10)
    features = (documents[:, None] == np.arange(40)).astype(float)
    labels = np.random.default_rng(2).integers(0, 2, 40)[documents]
    assert 0.2 < np.mean(cross_fitted(features, labels, documents) == labels) < 0.8


def test_overlap_by_hand(table):
    tokens, weights = table.store.tokens, tokens_per_million(table)
    found = overlap_features(table, np.arange(20))
    for row, features in zip(table.rows[:20], found, strict=True):
        a, b = (tokens[int(row[f"{s}_start"]) :][: int(row[f"{s}_length"])].tolist() for s in "ab")
        rarity = {token: np.log(1e6 / weights[token]) for token in {*a, *b}}
        expected = [
            sum(token in a for token in b) / len(b),
            sum(token in b for token in a) / len(a),
            sum(rarity[token] for token in b if token in a) / sum(rarity[token] for token in b),
            sum(rarity[token] for token in a if token in b) / sum(rarity[token] for token in a),
        ]
        assert features == pytest.approx(expected)


def test_length_features(table):
    assert np.isfinite(length_features(table, np.arange(NUM_PAIRS))).all()


def test_the_likeliest_weights():
    """At the maximum of the penalised likelihood its slope, taken numerically, is 0."""
    rng = np.random.default_rng(4)
    features = rng.normal(size=(300, 3))
    labels = (features @ [1.0, -2.0, 0.5] + rng.logistic(size=300) > 0).astype(int)
    weights = logistic_regression(features, labels)

    def likelihood(weights):
        scores = features @ weights
        fit = labels @ scores - np.logaddexp(0, scores).sum()
        return fit - 0.5 * 1e-3 * len(labels) * weights @ weights

    for direction in np.eye(3) * 1e-4:
        assert likelihood(weights) > likelihood(weights + direction)
        assert likelihood(weights) > likelihood(weights - direction)
    assert weights == pytest.approx([1, -2, 0.5], abs=0.4)
