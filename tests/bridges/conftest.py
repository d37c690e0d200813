"""Data sets to convert."""

import pytest
from data_util import make_store, read_json

from ds_bert.tokenizer.vocabulary import Vocabulary

NAME = "all_uncased_s64_d1_wwm0"


@pytest.fixture(scope="session")
def vocabulary(vocab_file):
    return Vocabulary.read(vocab_file)


@pytest.fixture(scope="session")
def record(golden):
    """Golden instances of all texts."""
    return read_json(golden / f"{NAME}.json.gz")


@pytest.fixture(scope="session")
def exact_store(golden, vocab_file, record, tmp_path_factory):
    """These instances by the road from their text."""
    options = record["options"]
    for key in ("max_seq_length", "max_predictions_per_seq"):
        options[key] = [options[key]]
    inputs = [golden / one["file"] for one in record["inputs"]]
    folder = tmp_path_factory.mktemp("exact") / "data"
    return make_store(folder, inputs, vocab_file, mode="exact", **options)


@pytest.fixture(scope="session")
def table(exact_store):
    """Their table, with masks stored."""
    return exact_store.instances(exact_store.sequence_lengths[0])


@pytest.fixture(scope="session")
def mlm_table(golden, vocab_file, tmp_path_factory):
    """Instances without pairs, whose masks are not stored."""
    folder = tmp_path_factory.mktemp("mlm") / "data"
    text = golden / "inputs" / "en_a.txt"
    return make_store(folder, text, vocab_file, objective="mlm", max_seq_length=(64,)).instances(64)
