"""A crash before any file operation: never a broken data set, and the same command mends all."""

import os
from itertools import pairwise

import pytest
from crash_trace import sample, snapshots
from data_util import arguments, exit_code, file_hashes, names, synthetic_text

from ds_bert.dataset import documents, journal
from ds_bert.dataset.store import TokenStore
from ds_bert.dataset.verify import verify
from ds_bert.errors import DataError
from ds_bert.preprocessing import instances

KEPT = (None, 0.0, 0.5)  # of the bytes not forced to disk: killed, and two power cuts
MOST = 15  # crashes of each kind, and those before and after a folder is renamed
PARTS = ("train", "validation")


@pytest.fixture(autouse=True)
def small_portions(monkeypatch):
    """Small portions of work, each recorded."""
    monkeypatch.setattr(journal, "SAVE_SECONDS", 0)
    monkeypatch.setattr(journal, "_SAVE_SHARE", 1e9)
    monkeypatch.setattr(documents, "_RANGE_SENTENCES", 120)
    monkeypatch.setattr(instances, "_ROWS_AT_ONCE", 300)


@pytest.fixture
def command(tmp_path, vocab_file):
    """A command that writes data sets into tmp_path/data."""
    (tmp_path / "data").mkdir()
    text = tmp_path / "text.txt"
    text.write_text(synthetic_text(12))
    return arguments(tmp_path / "data", text, vocab_file, "--num_workers", 1)


@pytest.fixture
def run(preprocess, monkeypatch):
    """Run a command to its end; that nothing waits for the disk makes no difference."""

    def run(command):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda descriptor: None)
            assert exit_code(preprocess, *command) == 0

    return run


def crashes(preprocess, command, folder, into, kept):
    """Snapshots of a command that writes below a folder."""
    taken = snapshots(folder, lambda: exit_code(preprocess, *command), into, kept)
    assert len(taken) > 100
    chosen = sample(taken, MOST)
    publishing = [pair for pair in pairwise(taken) if places(pair[0]) != places(pair[1])]
    assert len(publishing) >= 2
    return [*chosen, *(item for pair in publishing for item in pair if item not in chosen)]


def places(snapshot):
    """Which of the folders that are renamed are there."""
    found = (*PARTS, *(f".{part}.partial/{name}" for part in PARTS for name in ("new", "old")))
    return [(snapshot.folder / name).exists() for name in found]


def finished(folder):
    """Hashes of a data set that opens and is sound, or None."""
    try:
        store = TokenStore.open(folder)
    except DataError:
        return None
    verify(store)
    return file_hashes(folder)


@pytest.mark.parametrize("kept", KEPT)
def test_new_data_sets(kept, preprocess, run, command, tmp_path, capsys):
    data = tmp_path / "data"
    taken = crashes(preprocess, command, data, tmp_path / "copies", kept)
    whole = file_hashes(data)
    expected = {part: finished(data / part) for part in PARTS}
    for snapshot in taken:
        snapshot.restore(data)
        for part in PARTS:
            assert finished(data / part) in (None, expected[part]), snapshot
        run(command)
        assert file_hashes(data) == whole, snapshot
        assert names(data)[0] == "train", snapshot  # nothing hidden is left


@pytest.mark.parametrize(
    ("kept", "again"), [(None, "same"), (0.0, "same"), (None, "none"), (None, "old")]
)
def test_replaced_data_sets(kept, again, preprocess, run, command, tmp_path, capsys):
    """Old or new, whatever comes next: the command, it without --overwrite, the old command."""
    data = tmp_path / "data"
    other = [*command, "--random_seed", 7]
    run(command)
    old = {part: finished(data / part) for part in PARTS}
    taken = crashes(preprocess, [*other, "--overwrite"], data, tmp_path / "copies", kept)
    new = {part: finished(data / part) for part in PARTS}
    for snapshot in taken:
        snapshot.restore(data)
        for part in PARTS:
            assert finished(data / part) in (None, old[part], new[part]), snapshot
        if again == "same":
            run([*other, "--overwrite"])
            assert {part: finished(data / part) for part in PARTS} == new, snapshot
            assert names(data)[0] == "train", snapshot
        else:
            code = exit_code(preprocess, *(other if again == "none" else command))
            for part in PARTS:
                assert finished(data / part) in (old[part], new[part]), (snapshot, code)
