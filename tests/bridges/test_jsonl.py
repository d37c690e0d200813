"""JSON lines: one masked instance a row."""

import gzip
import json

import pytest
from bridges_util import as_examples, assert_same, golden_examples

from ds_bert.bridges.exporting import export
from ds_bert.bridges.importing import ImportOptions, import_data_set
from ds_bert.dataset.store import TokenStore
from ds_bert.dataset.verify import verify
from ds_bert.errors import DataError
from ds_bert.instances.examples import as_json


@pytest.fixture
def golden_file(golden_record, tmp_path):
    """The golden instances as another program writes them."""
    path = tmp_path / "golden.json"
    path.write_text("".join(json.dumps(each) + "\n" for each in golden_examples(golden_record)))
    return path


def imported(path, tmp_path, vocabulary, **options):
    folder = tmp_path / "imported"
    import_data_set([path], folder, vocabulary, ImportOptions(**options))
    return TokenStore.open(folder)


def test_golden_instances(golden_file, golden_table, tmp_path, vocabulary):
    store = imported(golden_file, tmp_path, vocabulary)
    assert verify(store) == 8
    assert store.sequence_lengths == [64]
    assert store.do_lower_case
    found = store.instances(64)
    assert found.masks is not None
    assert_same(found, golden_table)


def test_lines_are_those_of_json(golden_table, tmp_path):
    """Joined from ready-made words, and yet what `json.dumps` makes of each instance."""
    path = tmp_path / "x.json"
    assert export(golden_table.store, None, "jsonl", [path]) == len(golden_table)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines == [as_json(example) for example in as_examples(golden_table)]


def test_compressed_and_dealt_out(golden_table, tmp_path, vocabulary):
    paths = [tmp_path / f"{number}.jsonl.gz" for number in range(3)]
    export(golden_table.store, 64, "jsonl", paths)
    rows = [
        list(map(json.loads, gzip.decompress(path.read_bytes()).splitlines())) for path in paths
    ]
    expected = [json.loads(as_json(example)) for example in as_examples(golden_table)]
    assert rows == [expected[0::3], expected[1::3], expected[2::3]]
    assert paths[0].read_bytes()[4:8] == bytes(4), "no time, so that the bytes are the same again"
    export(golden_table.store, 64, "jsonl", [tmp_path / "all.json.gz"])
    assert_same(
        imported(tmp_path / "all.json.gz", tmp_path, vocabulary).instances(64), golden_table
    )


def test_masked_lm_alone(mlm_table, tmp_path, vocabulary):
    export(mlm_table.store, 64, "jsonl", [tmp_path / "x.json"])
    found = imported(tmp_path / "x.json", tmp_path, vocabulary).instances(64)
    assert found.options.objective == "mlm"
    assert as_examples(found) == as_examples(mlm_table)


def test_without_masks(golden_file, golden_table, tmp_path, vocabulary):
    """Then they are made for each batch."""
    rows = [json.loads(line) for line in golden_file.read_text().splitlines()]
    for row in rows:
        for position, label in zip(
            row.pop("masked_lm_positions"), row.pop("masked_lm_labels"), strict=True
        ):
            row["tokens"][position] = label
    golden_file.write_text("\n\n".join(map(json.dumps, rows)))
    found = imported(golden_file, tmp_path, vocabulary).instances(64)
    assert found.masks is None
    assert_same(
        found, type(golden_table)(golden_table.store, golden_table.rows, found.options, None)
    )


DAMAGE = {
    "no JSON": (lambda row: '{"tokens": [', "not JSON"),
    "no object": (lambda row: "[1]", "expected an object with tokens, segment_ids"),
    "text": (lambda row: '{"text": "A sentence."}', "found text, expected an object .* preprocess"),
    "unknown token": ({"tokens": ["[CLS]", "qqq", "[SEP]"]}, "'qqq' in tokens is not in the vocab"),
    "no list": ({"tokens": "the"}, "tokens is 'the', expected a list"),
    "number as token": ({"tokens": [1]}, "1 in tokens is not in the vocabulary"),
    "fraction": ({"segment_ids": [0.5]}, "segment_ids is .0.5., expected a list of whole numbers"),
    "huge": ({"masked_lm_positions": [2**70]}, "expected a list of whole numbers"),
    "few labels": (
        {"masked_lm_labels": []},
        "masked_lm_positions and 0 masked_lm_labels, expected",
    ),
    "few segments": ({"segment_ids": [0, 0]}, "expected a segment id for every token"),
    "segments": ({"segment_ids": [1] * 64}, "expected segment ids of 0 up to the first"),
    "position": ({"masked_lm_positions": [0], "masked_lm_labels": ["the"]}, "expected ascending"),
    "label": ({"is_random_next": 2}, "is_random_next is 2, expected true or false"),
    "no masks": (lambda row: without(row, "masked_lm_positions"), "in some lines only"),
}


def without(row, name):
    return json.dumps({key: value for key, value in row.items() if key != name})


def damage(path, change, number):
    lines = path.read_text().splitlines()
    row = json.loads(lines[number - 1])
    lines[number - 1] = change(row) if callable(change) else json.dumps(row | change)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_lines_are_named(kind, golden_file, tmp_path, vocabulary):
    change, message = DAMAGE[kind]
    damage(golden_file, change, 17)
    with pytest.raises(DataError, match=rf"golden.json, line 17: .*{message}.*--skip_damaged"):
        imported(golden_file, tmp_path, vocabulary)
    assert [path.name for path in tmp_path.iterdir()] == ["golden.json"], "nothing is left"


def test_damaged_lines_are_left_out_on_request(golden_file, golden_record, tmp_path, vocabulary):
    rows = list(golden_examples(golden_record))
    numbers = range(1, 1 + 2 * len(DAMAGE), 2)
    for number, (change, _) in zip(numbers, DAMAGE.values(), strict=True):
        damage(golden_file, change, number)
    store = imported(golden_file, tmp_path, vocabulary, skip_damaged=True)
    left = [row for number, row in enumerate(rows, 1) if number not in numbers]
    assert [json.loads(as_json(each)) for each in as_examples(store.instances(64))] == left
    assert store.meta["left_out"]["number"] == len(DAMAGE)
    assert store.meta["left_out"]["first"][0].startswith("golden.json, line 1: not JSON")


def test_limits(golden_file, tmp_path, vocabulary):
    with pytest.raises(DataError, match="line 1: expected at most 32 tokens"):
        imported(golden_file, tmp_path, vocabulary, max_seq_length=32)
    with pytest.raises(DataError, match=r"line \d+: expected at most 2 masked tokens"):
        imported(golden_file, tmp_path, vocabulary, max_predictions_per_seq=2)
    store = imported(golden_file, tmp_path, vocabulary, max_seq_length=128)
    assert store.sequence_lengths == [128]
