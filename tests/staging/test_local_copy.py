"""A copy on a host's own disk: made once, whole, of what is needed, checked on the way."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from data_util import file_hashes, make_store
from tqdm import tqdm

from ds_bert.dataset.format import META, document_arrays
from ds_bert.dataset.npy import HEADER_BYTES
from ds_bert.dataset.store import TokenStore
from ds_bert.errors import ConfigurationError, DataError
from ds_bert.staging import local_copy as copying
from ds_bert.staging import turns
from ds_bert.staging.local_copy import local_copy, require_room

PROGRAM = """
import sys
from ds_bert.staging import local_copy, turns

folder, local, hangs = sys.argv[1:]
turns.POLL_SECONDS = 0.05
if hangs:
    def hang(*arguments):
        print("half", flush=True)
        sys.stdin.read()
    local_copy.files.write_text = hang
found = local_copy.local_copy(folder, 32, local, say=lambda line: print(line, flush=True))
print(found, flush=True)
"""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(turns, "POLL_SECONDS", 0.01)


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden, vocab_file):
    folder = tmp_path_factory.mktemp("shared") / "train"
    text = [f"{name}={golden / 'inputs' / name}.txt" for name in ("en_a", "en_b")]
    return make_store(folder, text, vocab_file, max_seq_length=(32, 64))


@pytest.fixture
def copy(data, tmp_path):
    """Makes a copy; what was told is in `copy.said`."""

    def copy(folder=data.folder, length=32):
        return local_copy(folder, length, tmp_path / "local", say=copy.said.append)

    copy.said = []
    return copy


@pytest.fixture
def damaged(data, tmp_path):
    """Makes a data set with a byte of one array turned."""

    def damaged(name):
        folder = tmp_path / "damaged"
        shutil.copytree(data.folder, folder)
        with (folder / name).open("r+b") as file:
            file.seek(HEADER_BYTES + 5)
            byte = file.read(1)[0]
            file.seek(HEADER_BYTES + 5)
            file.write(bytes([byte ^ 1]))
        return folder

    return damaged


def test_what_one_length_needs_is_copied(copy, data):
    folder = copy()
    wanted = {META, "vocab.txt", "seq32/instances.npy"}
    wanted |= {f"{name}.npy" for name in document_arrays(np.dtype("u2"))}
    found, original = file_hashes(folder), file_hashes(data.folder)
    assert found == {name: original[name] for name in wanted}
    assert "seq64/instances.npy" in original
    table, own = TokenStore.open(folder).instances(32), data.instances(32)
    assert table.store.fingerprint == data.fingerprint and table.corpora == own.corpora
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "no lock stays"


def test_a_copy_that_is_there_is_used(copy):
    folder = copy()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert copy() == folder and len(copy.said) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_length_adds_its_table_alone(copy, data):
    folder = copy()
    before = (folder / "tokens.npy").stat().st_mtime_ns
    assert copy(length=64) == folder
    assert copy.said[1].endswith(f", {size_of(data, 'seq64/instances.npy')}"), copy.said
    assert (folder / "tokens.npy").stat().st_mtime_ns == before
    assert len(TokenStore.open(folder).instances(64)) == len(data.instances(64))


def test_stored_masks_are_copied(golden_table, tmp_path):
    folder = local_copy(golden_table.store.folder, 64, tmp_path)
    masks = TokenStore.open(folder).instances(64).masks
    assert masks is not None and (masks.positions == golden_table.masks.positions).all()


def test_other_data_of_that_name_have_a_copy_of_their_own(copy, data, golden, vocab_file, tmp_path):
    other = make_store(
        tmp_path / "train", golden / "inputs/en_a.txt", vocab_file, max_seq_length=(32,)
    )
    assert copy() != copy(other.folder)
    assert TokenStore.open(copy()).fingerprint == data.fingerprint


@pytest.mark.parametrize("name", ["tokens.npy", "seq32/instances.npy"])
def test_damage_is_found_while_copying(copy, damaged, tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}: the checksum of block 0 .* copy the data set"):
        copy(damaged(name))
    assert list((tmp_path / "local").iterdir()) == [], "nothing half written"


def test_a_shortened_or_half_copy_is_made_anew(copy, data):
    folder = copy()
    whole = file_hashes(folder)
    os.truncate(folder / "tokens.npy", 1000)
    (folder / "vocab.txt").unlink()
    assert copy() == folder and file_hashes(folder) == whole
    (folder / META).unlink()  # as a killed process leaves it, with a file cut off and one damaged
    (folder / ".tokens.npy.partial").write_bytes(b"half")
    (folder / "tokens.npy").unlink()
    with (folder / "seq32/instances.npy").open("r+b") as file:
        file.seek(HEADER_BYTES)
        file.write(b"\xff")
    assert copy() == folder and file_hashes(folder) == whole
    assert copy.said[-1].endswith(f", {size_of(data, 'tokens.npy', 'seq32/instances.npy')}")


def size_of(data, *names):
    return tqdm.format_sizeof(sum(data.meta["files"][name]["bytes"] for name in names)) + "B"


def test_too_small_a_disk_is_refused_before(copy, data, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    expected = r"local_data: the copy of .*train: about .*B are needed and 1.00kB are free on the"
    with pytest.raises(ConfigurationError, match=expected):
        require_room(data.folder, 32, str(tmp_path / "local"))
    with pytest.raises(ConfigurationError, match=expected):
        copy()
    assert list((tmp_path / "local").iterdir()) == []


def test_a_full_disk_leaves_nothing(copy, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copying, "os", SimpleNamespace(fsync=full))  # not that of the lock
    with pytest.raises(ConfigurationError, match=r"No space left on device.*; make room, choose"):
        copy()
    assert list((tmp_path / "local").iterdir()) == []


def test_a_folder_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"local_data .*file is no folder, expected"):
        local_copy(data.folder, 32, tmp_path / "file")


def test_what_is_missing_is_told_of_the_data_set(data, tmp_path):
    with pytest.raises(DataError, match="train has no instances of max_seq_length 99"):
        local_copy(data.folder, 99, tmp_path)
    with pytest.raises(DataError, match="nowhere is not a finished data set"):
        local_copy(tmp_path / "nowhere", 32, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def start(data, tmp_path):
    """Start a process that asks for the copy."""
    processes = []

    def start(hangs="") -> subprocess.Popen:
        command = [sys.executable, "-c", PROGRAM, data.folder, tmp_path / "local", hangs]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_one_copies_and_who_dies_hands_over(start, data, tmp_path):
    first = start("hangs")
    assert first.stdout.readline().startswith("copying ") and first.stdout.readline() == "half\n"
    others = [start() for _ in range(2)]
    for other in others:
        assert other.stdout.readline().startswith(f"waiting for process {first.pid} on ")
    first.send_signal(signal.SIGKILL)
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in others]
    assert outputs[0][-1] == outputs[1][-1]
    assert sum("copying" in line for output in outputs for line in output) == 1
    assert len(TokenStore.open(outputs[0][-1]).instances(32)) == len(data.instances(32))
    assert len(list((tmp_path / "local").iterdir())) == 1
