"""One path, one data set: found, converted once, waited for, taken over from the dead."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bridges_util import assert_same, golden_examples

from ds_bert.bridges import cache
from ds_bert.bridges.cache import as_data_set
from ds_bert.bridges.importing import ImportOptions
from ds_bert.dataset.store import TokenStore
from ds_bert.errors import ConfigurationError, DataError
from ds_bert.staging import turns

PROGRAM = """
import sys
from ds_bert.bridges import cache
from ds_bert.dataset import journal
from ds_bert.staging import turns
from ds_bert.tokenizer.vocabulary import Vocabulary

path, folder, vocab_file, hangs = sys.argv[1:]
turns.POLL_SECONDS = 0.05
if hangs == "hangs":
    def hang(*arguments, **how):
        print("converting", flush=True)
        sys.stdin.read()
    cache.import_data_set = hang
found = cache.as_data_set(
    path, cache_dir=folder, vocabulary=lambda: Vocabulary.read(vocab_file),
    say=lambda line: print(line, flush=True),
)
print(found, flush=True)
"""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(turns, "POLL_SECONDS", 0.01)


@pytest.fixture
def json_file(golden_record, tmp_path):
    path = tmp_path / "train_64.json"
    path.write_text("".join(json.dumps(each) + "\n" for each in golden_examples(golden_record)))
    return path


@pytest.fixture
def start(tmp_path, vocab_file):
    """Start a process that asks for the data set of a path."""
    processes = []

    def start(path, hangs="") -> subprocess.Popen:
        command = [sys.executable, "-c", PROGRAM, path, tmp_path / "cache", vocab_file, hangs]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_ours_is_itself(golden_table, tmp_path, vocabulary):
    folder = as_data_set(
        golden_table.store.folder, cache_dir=tmp_path / "cache", vocabulary=vocabulary
    )
    assert folder == golden_table.store.folder
    assert not (tmp_path / "cache").exists()


def test_converted_once(json_file, golden_table, tmp_path, vocabulary, monkeypatch):
    how = {"cache_dir": tmp_path / "cache", "vocabulary": lambda: vocabulary}
    folder = as_data_set(str(json_file), **how)
    assert_same(TokenStore.open(folder).instances(64), golden_table)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]
    with monkeypatch.context() as patch:
        patch.setattr(cache, "import_data_set", None)
        assert as_data_set(json_file, **how) == folder, "not read again"
    other = as_data_set(json_file, options=ImportOptions(max_seq_length=128), **how)
    assert other != folder
    os.utime(json_file, (1, 1))
    assert as_data_set(json_file, **how) not in (folder, other), "written again"


def test_lists_globs_and_folders(json_file, golden_table, tmp_path, vocabulary):
    lines = json_file.read_text().splitlines(keepends=True)
    parts = [tmp_path / "parts" / f"{number}.jsonl" for number in range(2)]
    parts[0].parent.mkdir()
    for path, part in zip(parts, (lines[:30], lines[30:]), strict=True):
        path.write_text("".join(part))
    for path in (parts[0].parent, f"{parts[0]},{parts[1]}", tmp_path / "parts/*.jsonl"):
        folder = as_data_set(path, cache_dir=tmp_path / "cache", vocabulary=vocabulary)
        assert_same(TokenStore.open(folder).instances(64), golden_table)


def test_text_is_answered(text_file, tmp_path, vocabulary):
    how = {"cache_dir": tmp_path / "cache", "vocabulary": vocabulary}
    with pytest.raises(DataError, match=r"ds-bert preprocess --input_file .*text.txt makes them"):
        as_data_set(text_file, **how)
    with pytest.raises(DataError, match="nowhere does not exist, expected finished instances"):
        as_data_set(tmp_path / "nowhere", **how)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        as_data_set(text_file, cache_dir=tmp_path / "file", vocabulary=vocabulary)


def test_one_converts_and_the_others_wait(json_file, start, tmp_path):
    outputs = [process.communicate()[0] for process in [start(json_file) for _ in range(3)]]
    folders = {output.splitlines()[-1] for output in outputs}
    assert len(folders) == 1
    assert sum("converting" in output for output in outputs) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [Path(folders.pop()).name]


def test_who_dies_hands_over(json_file, start):
    first = start(json_file, "hangs")
    assert "converting" in first.stdout.readline()
    assert "converting" in first.stdout.readline()
    second = start(json_file)
    assert second.stdout.readline().startswith(f"waiting for process {first.pid} on ")
    first.send_signal(signal.SIGKILL)
    output, _ = second.communicate(timeout=60)
    assert output.startswith("converting")
