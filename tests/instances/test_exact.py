"""Exact mode against the results of Google's own script, by the full road through the store."""

import gzip
import hashlib
from pathlib import Path

import pytest
from data_util import make_store, read_json

from ds_bert.instances.exact import GoogleInstances
from ds_bert.instances.examples import examples
from ds_bert.rng import mersenne_twister

FOLDER = Path(__file__).resolve().parents[1] / "golden"
PROJECT_FILES = sorted(
    path.name for path in FOLDER.glob("*.json.gz") if path.name != "tokenizer_vectors.json.gz"
)
NUM_GOOGLE_FILES = 29


def check(golden, name, tmp_path):
    expected = read_json(golden / name)
    options = expected["options"]
    inputs = [golden / record["file"] for record in expected["inputs"]]
    for path, record in zip(inputs, expected["inputs"], strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]
    length, predictions = options.pop("max_seq_length"), options.pop("max_predictions_per_seq")
    store = make_store(
        tmp_path / "store",
        inputs,
        vocabulary_file(golden, expected["vocab"], tmp_path),
        mode="exact",
        max_seq_length=[length],
        max_predictions_per_seq=[predictions],
        block_bytes=1500,  # several blocks, some of them across the border of two files
        num_workers=2,
        **options,
    )
    table = store.instances(length)
    assert [as_golden(example) for example in examples(table)] == expected["instances"]
    assert len(table) == expected["n"]
    assert random_number_after(table) == expected["rng_after"]


def vocabulary_file(golden, name, tmp_path):
    path = golden / "vocab" / name
    if path.exists():
        return path
    unpacked = tmp_path / name
    unpacked.write_bytes(gzip.decompress(path.with_name(name + ".gz").read_bytes()))
    return unpacked


def as_golden(example):
    border = example.segment_ids.index(1)
    assert example.segment_ids == [0] * border + [1] * (len(example.tokens) - border)
    return [
        " ".join(example.tokens),
        border,
        example.masked_lm_positions,
        " ".join(example.masked_lm_labels),
        int(example.is_random_next),
    ]


def random_number_after(table):
    """What the generator would draw next: it shows that not one draw more or less was made."""
    google = GoogleInstances(table.store.documents, table.options, table.store.vocabulary)
    google.final_order(sum(len(chunk.rows) for chunk in google.chunks()))
    return int(mersenne_twister.getrandbits(google.state, 64))


def test_all_files_are_there():
    assert len(PROJECT_FILES) == 20


@pytest.mark.parametrize("name", PROJECT_FILES)
def test_project_file(name, golden, tmp_path):
    check(golden, name, tmp_path)


def google_files():
    folder = FOLDER.parent.parent.parent / "shared" / "golden" / "google"
    names = sorted(path.name for path in folder.glob("*_s*.json.gz"))
    return names or ["absent"]


@pytest.mark.parametrize("name", google_files())
def test_google_file(name, shared, tmp_path):
    check(shared / "golden" / "google", name, tmp_path)


def test_all_google_files_are_there(shared):
    assert len(google_files()) == NUM_GOOGLE_FILES
