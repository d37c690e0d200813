"""scripts/inspect_data.py as a user runs it."""

import json

from data_util import (
    arguments,
    exit_code,
)

from ds_bert.dataset.store import TokenStore


def test_inspection(preprocess, inspect_data, tmp_path, text_file, vocab_file, capsys):
    exit_code(preprocess, *arguments(tmp_path, text_file, vocab_file))
    capsys.readouterr()
    dataset = tmp_path / "train"
    assert exit_code(inspect_data, dataset, "--format", "jsonl") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    table = TokenStore.open(dataset).instances(32)
    assert len(rows) == len(table)
    assert [row["is_random_next"] for row in rows] == table.rows["is_random_next"].tolist()
    for row in rows:
        assert len(row["tokens"]) == len(row["segment_ids"]) <= 32
        assert row["tokens"][0] == "[CLS]"
        assert row["tokens"][-1] == row["tokens"][row["segment_ids"].index(1) - 1] == "[SEP]"
        assert 1 <= len(row["masked_lm_positions"]) == len(row["masked_lm_labels"]) <= 5
        assert set(row) == {
            "tokens",
            "segment_ids",
            "masked_lm_positions",
            "masked_lm_labels",
            "is_random_next",
        }
    restored = restored_tokens(rows[0])
    assert restored == text_tokens(table, 0)
    assert exit_code(inspect_data, dataset, "--limit", 3) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) == 9
    assert "->MASK]" in text


def restored_tokens(row):
    for position, label in zip(row["masked_lm_positions"], row["masked_lm_labels"], strict=True):
        row["tokens"][position] = label
    return row["tokens"]


def text_tokens(table, number):
    row, store = table.rows[number], table.store
    names_of = store.vocabulary.tokens
    a, b = (
        [names_of[i] for i in store.tokens[row[f"{s}_start"] :][: row[f"{s}_length"]]] for s in "ab"
    )
    return ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
