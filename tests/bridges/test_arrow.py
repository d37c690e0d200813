"""Hugging Face data sets as other programs make them, and what is wrong with some."""

import datasets
import pytest
from bridges_util import as_examples, golden_examples
from pyarrow import parquet

from ds_bert.bridges.exporting import export
from ds_bert.bridges.importing import ImportOptions, import_data_set
from ds_bert.dataset.store import TokenStore
from ds_bert.errors import DataError


@pytest.fixture
def rows(golden_record, vocabulary):
    """The golden instances with labels where a token is masked, -100 elsewhere."""
    columns = {"input_ids": [], "token_type_ids": [], "labels": [], "next_sentence_label": []}
    for each in golden_examples(golden_record):
        labels = [-100] * len(each["tokens"])
        for position, label in zip(
            each["masked_lm_positions"], each["masked_lm_labels"], strict=True
        ):
            labels[position] = vocabulary.ids[label]
        columns["input_ids"].append([vocabulary.ids[token] for token in each["tokens"]])
        columns["token_type_ids"].append(each["segment_ids"])
        columns["labels"].append(labels)
        columns["next_sentence_label"].append(int(each["is_random_next"]))
    return columns


def imported(path, tmp_path, vocabulary, **options):
    import_data_set([path], tmp_path / "imported", vocabulary, ImportOptions(**options))
    return TokenStore.open(tmp_path / "imported")


def padded(rows, pads):
    return {
        name: [values + [pads[name]] * (64 - len(values)) for values in column]
        if name in pads
        else column
        for name, column in rows.items()
    }


@pytest.mark.parametrize("kind", ["as it is", "padded", "padded with a mask", "shuffled twice"])
def test_folders_of_save_to_disk(kind, rows, golden_table, tmp_path, vocabulary):
    if kind == "padded with a mask":
        rows["attention_mask"] = [[1] * len(ids) for ids in rows["input_ids"]]
    if kind.startswith("padded"):
        pads = {"input_ids": 0, "token_type_ids": 0, "labels": -100, "attention_mask": 0}
        rows = padded(rows, pads)
    data_set = datasets.Dataset.from_dict(rows)
    if kind == "shuffled twice":  # rows behind an index
        order = [*range(1, len(data_set)), 0]
        data_set = data_set.select(order).select([len(order) - 1, *range(len(order) - 1)])
    datasets.DatasetDict({"train": data_set, "test": data_set.select([0])}).save_to_disk(
        tmp_path / "x"
    )
    found = imported(tmp_path / "x", tmp_path, vocabulary).instances(64)
    assert as_examples(found) == as_examples(golden_table)


def test_ours_opens_as_a_data_set(rows, golden_table, tmp_path):
    export(golden_table.store, None, "datasets", [tmp_path / "x"])
    found = datasets.load_from_disk(tmp_path / "x")
    for name, expected in rows.items():
        assert found[name][:] == expected
    assert found["attention_mask"][:] == [[1] * len(ids) for ids in rows["input_ids"]]
    export(golden_table.store, None, "datasets", [tmp_path / "x.parquet"])
    assert parquet.read_table(tmp_path / "x.parquet").to_pydict() == found.to_dict()


def test_masks_may_be_absent(rows, golden_table, tmp_path, vocabulary):
    del rows["labels"]
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "x.parquet")
    found = imported(tmp_path / "x.parquet", tmp_path, vocabulary).instances(64)
    assert found.masks is None and len(found) == len(golden_table)


def test_masked_lm_alone_needs_only_ids(rows, tmp_path, vocabulary):
    pairs = zip(rows["input_ids"], rows["token_type_ids"], strict=True)
    cut = [ids[: segments.index(1)] for ids, segments in pairs]
    datasets.Dataset.from_dict({"input_ids": cut}).to_parquet(tmp_path / "x.parquet")
    found = imported(tmp_path / "x.parquet", tmp_path, vocabulary)
    (length,) = found.sequence_lengths
    assert found.instances(length).options.objective == "mlm"
    assert found.tokens.tolist() == [token for ids in cut for token in ids[1:-1]]


NAMED = {
    "null": ("input_ids", None, "null in input_ids"),
    "null inside": ("labels", [1, None], "null in labels"),
    "null label": ("next_sentence_label", None, "null in next_sentence_label"),
    "short": ("labels", [-100], "expected as many labels as input_ids"),
    "segments": ("token_type_ids", [0], "expected a segment id for every token"),
    "id": ("input_ids", [2, 3, 1500], "expected"),
    "on [CLS]": ("labels", [5] + [-100] * 63, "expected"),
}


@pytest.mark.parametrize("kind", NAMED)
@pytest.mark.parametrize("form", ["folder", "x.parquet"])
def test_damaged_rows_are_named_and_left_out(kind, form, rows, tmp_path, vocabulary):
    name, value, problem = NAMED[kind]
    rows[name][4] = value
    data_set = datasets.Dataset.from_dict(rows)
    path = tmp_path / form
    data_set.save_to_disk(path) if form == "folder" else data_set.to_parquet(path)
    with pytest.raises(DataError, match=f"{form}, row 5: {problem}"):
        imported(path, tmp_path, vocabulary)
    store = imported(path, tmp_path, vocabulary, skip_damaged=True)
    assert len(store.instances(64)) == len(rows["labels"]) - 1


REFUSED = {
    "text": ({"text": ["A sentence."]}, "expected input_ids, .* ds-bert preprocess"),
    "words": ({"input_ids": [["a"]]}, "input_ids is of list<.*>, expected lists of integers"),
    "no segments": ({"input_ids": [[1]], "next_sentence_label": [1]}, "for pairs token_type_ids"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_tables_are_refused(kind, tmp_path, vocabulary):
    columns, problem = REFUSED[kind]
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=problem):
        imported(tmp_path / "x.parquet", tmp_path, vocabulary)


def test_damaged_files(golden_table, tmp_path, vocabulary):
    for name in ("x.parquet", "folder"):
        export(golden_table.store, None, "datasets", [tmp_path / name])
        path = next((tmp_path / name).glob("*.arrow")) if name == "folder" else tmp_path / name
        path.write_bytes(path.read_bytes()[:-900])
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            imported(tmp_path / name, tmp_path, vocabulary)
