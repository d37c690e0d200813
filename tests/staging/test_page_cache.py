"""Reading a data set into memory beside the start of a run."""

import os
import shutil
import subprocess
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from ds_bert.staging import page_cache
from ds_bert.staging.page_cache import Warming

SIZE = 8 << 20


@pytest.fixture
def table(tmp_path):
    """A stand-in with two arrays that are on the disk and not in memory."""
    if shutil.which("fincore") is None:
        pytest.skip("needs fincore (util-linux), to see what is in memory")
    paths = [tmp_path / f"{name}.npy" for name in ("rows", "tokens")]
    for path in paths:
        path.write_bytes(np.random.default_rng(1).bytes(SIZE))
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_memory(tmp_path) > SIZE:
        pytest.skip("needs a file system that lets go of pages, unlike tmpfs")
    return SimpleNamespace(arrays=["rows", "tokens"], store=SimpleNamespace(folder=tmp_path))


def in_memory(folder):
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", *folder.glob("*.npy")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(map(int, found.split()))


def test_all_is_in_memory_afterwards(table, tmp_path):
    with Warming(table) as warming:
        warming.wait()
    assert in_memory(tmp_path) == 2 * SIZE


@pytest.mark.parametrize("case", ["memory", "container", "rank"])
def test_nothing_is_read(table, tmp_path, monkeypatch, case):
    """Not what would not fit into half of the memory or of the container's, nor by other ranks."""
    before, most = in_memory(tmp_path), 4 * SIZE - 1
    limit = tmp_path / "limit"
    limit.write_text(f"{most if case == 'container' else 'max'}\n")
    monkeypatch.setattr(page_cache, "_LIMIT", limit)
    free = most if case == "memory" else 4 * SIZE
    found = SimpleNamespace(available=free)
    monkeypatch.setattr(page_cache.psutil, "virtual_memory", lambda: found)
    monkeypatch.setenv("LOCAL_RANK", str(int(case == "rank")))
    with Warming(table) as warming:
        warming.wait()
    assert in_memory(tmp_path) == before


def test_what_fits_exactly_is_read(table, tmp_path, monkeypatch):
    found = SimpleNamespace(available=4 * SIZE)
    monkeypatch.setattr(page_cache.psutil, "virtual_memory", lambda: found)
    with Warming(table) as warming:
        warming.wait()
    assert in_memory(tmp_path) == 2 * SIZE


def test_the_end_of_a_run_ends_it(table, tmp_path, monkeypatch):
    monkeypatch.setattr(page_cache, "_PIECE", 1)  # for ever
    with Warming(table) as warming:
        assert "page cache" in {thread.name for thread in threading.enumerate()}
    warming.wait()
    assert in_memory(tmp_path) < 2 * SIZE
