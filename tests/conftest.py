"""Fixtures shared by all tests."""

import gc
import os
from pathlib import Path

# Before transformers (it imports Triton): kernels run in Triton's interpreter without a GPU.
os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# Threads of several processes on few cores wait for each other, ten times as long as they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from ds_bert.files import cache_folder

# Tests that choose another folder for what is measured need not compile everything again.
os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "numba"))

import pytest
from data_util import make_store, read_json, synthetic_text
from script_loader import load_script

from ds_bert.tokenizer.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """Test vectors over texts written for this project."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real texts and vocabularies that are not part of the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared (real texts and vocabularies), which is absent")
    return folder


@pytest.fixture(scope="session")
def vocab_file(golden) -> Path:
    """The uncased vocabulary of the test vectors."""
    return golden / "vocab" / "uncased_vocab.txt"


@pytest.fixture
def text_file(tmp_path) -> Path:
    """A text of 40 documents."""
    path = tmp_path / "text.txt"
    path.write_text(synthetic_text(40))
    return path


@pytest.fixture(scope="session")
def preprocess():
    """`main` of scripts/preprocess.py."""
    return load_script("preprocess").main


@pytest.fixture(scope="session")
def inspect_data():
    """`main` of scripts/inspect_data.py."""
    return load_script("inspect_data").main


@pytest.fixture(scope="module")
def one_process_group():
    """DeepSpeed keeps groups in global variables, so a process cannot leave and join again."""
    from ds_bert import distributed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "shutdown", lambda: None)
        yield


@pytest.fixture(scope="session")
def vocabulary(vocab_file):
    """That vocabulary, read."""
    return Vocabulary.read(vocab_file)


@pytest.fixture(scope="session")
def golden_record(golden):
    """Instances of all texts of the test vectors, as stored."""
    return read_json(golden / "all_uncased_s64_d1_wwm0.json.gz")


@pytest.fixture(scope="session")
def golden_table(golden, vocab_file, golden_record, tmp_path_factory):
    """These instances by the road from their text, with masks stored."""
    options = dict(golden_record["options"])
    for key in ("max_seq_length", "max_predictions_per_seq"):
        options[key] = [options[key]]
    inputs = [golden / one["file"] for one in golden_record["inputs"]]
    folder = tmp_path_factory.mktemp("golden") / "data"
    return make_store(folder, inputs, vocab_file, mode="exact", **options).instances(64)


@pytest.fixture(scope="session")
def mlm_table(golden, vocab_file, tmp_path_factory):
    """Instances without pairs, whose masks are not stored."""
    folder = tmp_path_factory.mktemp("mlm") / "data"
    text = golden / "inputs" / "en_a.txt"
    return make_store(folder, text, vocab_file, objective="mlm", max_seq_length=(64,)).instances(64)


def pytest_collection_finish():
    """Everything is imported: what is there now stays, and need not be searched for garbage."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """The end looks for garbage everywhere, or packages tell of leaks."""
    gc.unfreeze()
