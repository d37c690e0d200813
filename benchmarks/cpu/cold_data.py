"""Making batches from a data set that is not in memory yet, against one that is.

python benchmarks/cpu/cold_data.py [--tokens 200_000_000] [--folder DIR]

Before each way the data set's pages are dropped (posix_fadvise) and it is looked whether they are
gone (mincore, by fincore). On a disk that others use as well figures vary. For a slow one (root):

    truncate -s 2G image; mkfs.ext4 -q image; losetup --direct-io=on /dev/loop0 image
    mount /dev/loop0 DIR; echo 128 > /sys/block/loop0/queue/read_ahead_kb
    cd /sys/fs/cgroup/blkio; mkdir slow; echo $$ > slow/cgroup.procs
    echo 7:0 3000 > slow/blkio.throttle.read_iops_device
    echo 7:0 131072000 > slow/blkio.throttle.read_bps_device
"""

import argparse
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import numpy as np
from machine import save
from numpy.typing import NDArray
from synthetic_data import write_dataset

from ds_bert.dataset.store import InstanceTable, TokenStore
from ds_bert.instances.collate import collate
from ds_bert.rng.streams import permuted
from ds_bert.staging.local_copy import local_copy
from ds_bert.staging.page_cache import Warming

SEQUENCES, STEPS, LENGTH = 64, 400, 128  # of a step
PAGE = mmap.PAGESIZE


def drop(folder: Path) -> int:
    """Drop a data set's pages; bytes that stay."""
    paths = list(folder.rglob("*.npy"))
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return in_memory(paths)


def in_memory(paths: list[Path]) -> int:
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", *map(str, paths)]
    return sum(map(int, subprocess.run(command, capture_output=True, text=True).stdout.split()))


def map_of(array: NDArray) -> mmap.mmap:
    base = array
    while not isinstance(base, mmap.mmap):
        base = base.base
    return base


def advise(array: NDArray, first: int, last: int, advice: int) -> None:
    """Tell the kernel about items `first` to `last` of an array."""
    size, header = array.itemsize, 256
    begin = (header + first * size) // PAGE * PAGE
    map_of(array).madvise(advice, begin, header + last * size - begin)


def ahead(table: InstanceTable, indices: NDArray[np.int64]) -> None:
    """Ask for all pages of a step at once: its rows, then their tokens."""
    for index in indices:
        advise(table.rows, index, index + 1, mmap.MADV_WILLNEED)
    for row in table.rows.take(indices):
        for name in ("a", "b"):
            start = int(row[f"{name}_start"])
            last = start + int(row[f"{name}_length"])
            advise(table.store.tokens, start, last, mmap.MADV_WILLNEED)


def at_random(table: InstanceTable) -> None:
    for array in (table.rows, table.store.tokens):
        map_of(array).madvise(mmap.MADV_RANDOM)


def seconds(
    table: InstanceTable,
    before: Callable[[InstanceTable, NDArray[np.int64]], None] = lambda table, indices: None,
) -> list[float]:
    """Seconds of each step."""
    found = []
    for number in range(STEPS):
        begin = time.perf_counter()
        samples = np.arange(number * SEQUENCES, (number + 1) * SEQUENCES)
        indices = permuted(samples % len(table), len(table), seed=1, epoch=0)
        before(table, indices)
        collate(table, indices, np.zeros_like(indices), seed=1)
        found.append(time.perf_counter() - begin)
    return found


def measure(folder: Path, way: str) -> dict[str, object]:
    left = None if way == "warm" else drop(folder)
    table = TokenStore.open(folder).instances(LENGTH)
    begin = time.perf_counter()
    if "random" in way:
        at_random(table)
    if "warming" in way:
        with Warming(table) as warming:
            steps = seconds(table)
            warming.wait()
            whole = time.perf_counter() - begin
    else:
        steps = seconds(table, ahead) if "ahead" in way else seconds(table)
        whole = None
    paths = [folder / "tokens.npy", folder / f"seq{LENGTH}/instances.npy"]
    return {
        "way": way,
        "left_in_memory_before": left,
        "ms_of_first_step": 1e3 * steps[0],
        "ms_of_steps_1_to_50": 1e3 * float(np.mean(steps[1:50])),
        "ms_of_last_50": 1e3 * float(np.mean(steps[-50:])),
        "seconds_of_all_steps": sum(steps),
        "seconds_until_read": whole,
        "share_in_memory_after": in_memory(paths) / sum(path.stat().st_size for path in paths),
    }


def measure_copy(folder: Path) -> dict[str, object]:
    """A copy to the same disk, with all checks."""
    left, begin = drop(folder), time.perf_counter()
    copy = local_copy(folder, LENGTH, folder.with_name("local"))
    whole = time.perf_counter() - begin
    size = sum(path.stat().st_size for path in copy.rglob("*.npy"))
    row = {"way": "copy", "left_in_memory_before": left, "seconds": whole, "bytes": size}
    shutil.rmtree(copy)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=200_000_000)
    parser.add_argument("--folder", help="on the disk to be measured")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="cold_data_", dir=options.folder))
    try:
        folder = work / "data"
        num_tokens = options.tokens
        write_dataset(folder, "real", (LENGTH,), num_tokens // 60, num_tokens=num_tokens)
        measure(folder, "warm")  # compiles, and brings the files into memory
        ways = ("warm", "cold", "cold, random", "cold, ahead", "cold, random, ahead")
        rows = []
        for _ in range(options.repeats):
            for way in (*ways, "cold, warming"):
                rows.append(measure(folder, way))
                print(rows[-1], flush=True)
            rows.append(measure_copy(folder))
            print(rows[-1], flush=True)
        save("cold_data", rows)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
