"""Classes of masked tokens and sequences, against a walk over the instances in words."""

import json
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from evaluation_util import evaluated
from training_util import make_data

from ds_bert.dataset.store import TokenStore
from ds_bert.evaluation import items as items_module
from ds_bert.evaluation.loop import EVALUATION_SEED, evaluation_batches
from ds_bert.evaluation.report import figures
from ds_bert.evaluation.slices import slice_figures
from ds_bert.files import as_json
from ds_bert.instances.examples import split
from ds_bert.model import bert


@pytest.fixture(scope="module")
def table(tmp_path_factory, golden):
    return TokenStore.open(make_data(tmp_path_factory.mktemp("data") / "d", golden)).instances(64)


@pytest.fixture(scope="module")
def items(table):
    return evaluated(table)


@pytest.fixture(scope="module")
def examples(table):
    """The instances in words, in the order of evaluation."""
    (batch,) = evaluation_batches(
        table, micro_batch_size=len(table), rank=0, world_size=1, seed=EVALUATION_SEED
    )
    return list(split(batch, table.store.vocabulary.tokens))


def size_class(size, first):
    """The class of 16, 16, 32, 64, ... sizes that a size from `first` on is in."""
    low, high = first, first + 15
    while size > high:
        low, high = high + 1, 2 * (high + 1 - first) + first - 1
    return f"{low} to {high}"


def frequency_class(count, total):
    per_million = count * 1e6 / total
    if per_million >= 10_000:
        return "10,000 or more of a million"
    for low, high in ((1_000, 10_000), (100, 1_000), (10, 100)):
        if per_million >= low:
            return f"{low:,} to {high:,}"
    return "below 10"


def piece_class(text, position):
    if text[position].startswith("##"):
        return "##, goes on with a word"
    goes_on = text[position + 1].startswith("##")
    return "first token of a longer word" if goes_on else "a word of one token"


def test_every_masked_token_is_in_the_right_class(table, items, examples):
    names = table.store.vocabulary.tokens
    counts = Counter(names[token] for token in table.store.tokens.tolist())
    total = len(table.store.tokens)
    expected = {way: defaultdict(list) for way in ("frequency", "piece", "position", "length")}
    losses = iter(items.losses["mlm"].tolist())
    for example in examples:
        text = list(example.tokens)
        for position, label in zip(
            example.masked_lm_positions, example.masked_lm_labels, strict=True
        ):
            text[position] = label
        for position in example.masked_lm_positions:
            loss = next(losses)
            expected["frequency"][frequency_class(counts[text[position]], total)].append(loss)
            expected["piece"][piece_class(text, position)].append(loss)
            expected["position"][size_class(position, 0)].append(loss)
            expected["length"][size_class(len(text), 1)].append(loss)
    found = slice_figures(items)
    for way, classes in expected.items():
        assert {row["slice"] for row in found[way]} == classes.keys(), way
        for row in found[way]:
            assert row["num_masked_tokens"] == len(classes[row["slice"]])
            assert row["mlm_loss"] == pytest.approx(np.mean(classes[row["slice"]]))


def test_pairs_by_relation_and_length(items, examples):
    correct = items.correct["nsp"]
    found = slice_figures(items)
    relations = {False: "B follows A", True: "B is from another place"}
    for is_random, name in relations.items():
        mine = [c for c, e in zip(correct, examples, strict=True) if e.is_random_next == is_random]
        (row,) = (row for row in found["relation"] if row["slice"] == name)
        assert row["num_sequences"] == len(mine)
        assert row["nsp_accuracy"] == pytest.approx(np.mean(mine))
        assert "mlm_loss" not in row
    lengths = Counter(size_class(len(example.tokens), 1) for example in examples)
    assert {row["slice"]: row["num_sequences"] for row in found["length"]} == lengths


def test_every_figure_has_an_interval(items):
    record = figures(items)
    for rows in record["slices"].values():
        for row in rows:
            names = [key for key in row if key.endswith(("_loss", "_accuracy"))]
            assert names
            for low, high in (row[f"{name}_interval"] for name in names):
                assert low <= high or np.isnan(low)
    for name, (low, high) in record["intervals"].items():
        assert low <= record[name] <= high
        assert low < high or "accuracy" in name  # a random model guesses nothing
    assert "nsp_baseline" in record
    json.loads(as_json(record))


def test_documents_of_sequences(table, items):
    offsets = table.store.documents.token_offsets.tolist()
    of_row = {}
    for row in items.sequences["row"].tolist():
        start = int(table.rows["a_start"][row])
        of_row[row] = max(d for d in range(len(offsets) - 1) if offsets[d] <= start)
    numbers = sorted(set(of_row.values()))
    expected = [numbers.index(of_row[row]) for row in items.sequences["row"].tolist()]
    assert items.documents.tolist() == expected
    assert items.num_documents == len(numbers)


def test_many_documents_are_drawn_in_groups(table, items, monkeypatch):
    monkeypatch.setattr(items_module, "MAX_UNITS", 4)
    grouped = replace(items)  # nothing is remembered
    assert grouped.documents.tolist() == (items.documents % 4).tolist()
    assert grouped.num_documents == items.num_documents > 4
    assert grouped.metrics() == items.metrics()
    low, high = figures(grouped)["intervals"]["mlm_loss"]
    assert low < items.metrics()["mlm_loss"] < high


def test_logits_come_in_parts(table, items, monkeypatch):
    """Few at once: a part's own size changes no bit, not even that of a last one of few rows."""
    monkeypatch.setattr(bert, "_ROWS_AT_ONCE", 50)
    assert len(items.losses["mlm"]) > 100
    assert np.array_equal(evaluated(table).losses["mlm"], items.losses["mlm"])


def test_masked_lm_alone_has_no_figures_of_pairs(mlm_table):
    found = figures(evaluated(mlm_table, "mlm"))
    assert set(found["intervals"]) == {"mlm_loss", "perplexity", "mlm_accuracy"}
    assert set(found["slices"]) == {"frequency", "piece", "position", "length"}
    assert not any(name.endswith("_baseline") for name in found)
