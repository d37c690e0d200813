"""Who may write into a run's folder, and whether all ranks see it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from distributed_util import run_ranks

from ds_bert.errors import CheckpointError, ConfigurationError
from ds_bert.guards import lock
from ds_bert.guards.lock import LOCK, RunLock

HOLD = """
import sys, time
from pathlib import Path
from ds_bert.guards.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "SILENCE", 0.4)
    monkeypatch.setattr(lock, "SECONDS_TO_SEE", 0.4)


@pytest.fixture
def no_kernel_lock(monkeypatch):
    """As on a file system without locks."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)


def write_owner(folder: Path, **changes) -> None:
    owner = {"host": "elsewhere", "process": 7, "since": "then", "boot": "another", "nonce": "x"}
    folder.mkdir(exist_ok=True)
    (folder / LOCK).write_text(json.dumps(owner | changes))


def test_held_once(tmp_path):
    with RunLock(tmp_path), pytest.raises(ConfigurationError, match=f"process {os.getpid()} on"):
        RunLock(tmp_path).__enter__()
    with RunLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_owner_is_gone_at_once(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(ConfigurationError, match=f"process {process.pid} on"):
            RunLock(tmp_path).__enter__()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).exists()
    start = time.monotonic()
    with RunLock(tmp_path) as mine:
        mine.check()
    assert time.monotonic() - start < 5


def test_an_owner_on_another_host_that_gives_signs_of_life(tmp_path, quick):
    write_owner(tmp_path)
    stop = threading.Event()

    def live():
        while not stop.wait(0.05):
            os.utime(tmp_path / LOCK)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(ConfigurationError, match="process 7 on elsewhere, since then"):
            RunLock(tmp_path).__enter__()
    finally:
        stop.set()
        thread.join()
    assert json.loads((tmp_path / LOCK).read_text())["nonce"] == "x"


def test_an_owner_on_another_host_that_is_silent(tmp_path, quick):
    write_owner(tmp_path)
    start = time.monotonic()
    with RunLock(tmp_path):
        waited = time.monotonic() - start
    assert 0.2 < waited < 5
    write_owner(tmp_path)
    os.utime(tmp_path / LOCK, (1, 1))
    with RunLock(tmp_path):
        assert time.monotonic() - start - waited < 0.3, "silent for long: no waiting"


def test_an_owner_of_a_time_to_come(tmp_path, quick):
    write_owner(tmp_path)
    os.utime(tmp_path / LOCK, (time.time() + 3600,) * 2)
    start = time.monotonic()
    with RunLock(tmp_path):
        assert time.monotonic() - start < 5, "a clock that was set back costs no hour"


def test_a_full_disk_is_one_line_and_leaves_no_lock(tmp_path, monkeypatch):
    def pwrite(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.pwrite", pwrite)
    with pytest.raises(ConfigurationError, match=r"cannot be written \(No space left on device\)"):
        RunLock(tmp_path / "run").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_of_the_kernel(tmp_path, quick, no_kernel_lock):
    with RunLock(tmp_path), pytest.raises(ConfigurationError, match="another run writes there"):
        RunLock(tmp_path).__enter__()


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}"])
def test_a_lock_that_a_crash_has_cut_off(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with RunLock(tmp_path) as mine:
        mine.check()


def test_a_run_that_was_taken_over_saves_nothing_more(tmp_path):
    with RunLock(tmp_path) as mine:
        write_owner(tmp_path)
        with pytest.raises(CheckpointError, match=r"process 7 on elsewhere.*saves nothing more"):
            mine.check()
    assert (tmp_path / LOCK).exists(), "it is not ours to remove"


def test_a_folder_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path / "a/b"):
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()
    with RunLock(tmp_path / "a/b"):
        (tmp_path / "a/b/file").touch()
    assert (tmp_path / "a/b/file").exists()


def lock_in_own_folder(base: str, shared: bool) -> str:
    """On a rank: the folder is given relative to where the rank stands."""
    lock.SECONDS_TO_SEE = 0.5
    place = Path(base) / ("both" if shared else f"host{os.environ['RANK']}")
    place.mkdir(exist_ok=True)
    os.chdir(place)
    try:
        with RunLock(Path("run")):
            return "held"
    except ConfigurationError as error:
        return str(error)


def test_folders_of_hosts_that_are_not_one(tmp_path):
    assert run_ranks(lock_in_own_folder, 2, str(tmp_path), True) == ["held", "held"]
    messages = run_ranks(lock_in_own_folder, 2, str(tmp_path), False)
    assert messages[0] == messages[1]
    assert "rank 1 (" in messages[0] and "expected one folder for all ranks" in messages[0]
    assert not list(tmp_path.rglob("run")), "nothing is left"
