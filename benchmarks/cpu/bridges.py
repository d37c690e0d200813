"""Round trips through every format: MB of the file per CPU-second, equality, and bounded memory.

python benchmarks/cpu/bridges.py DATASET [--max_seq_length 128] [--limit 50000]

Each way is a process of its own. After a warm-up on the first thousand instances it is read again
with half of the file's size as a limit on more memory: of its own (as by ulimit -d, where mapped
files do not count), and once more of addresses (ulimit -v).
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import numpy as np
from machine import save

from ds_bert.bridges.exporting import export
from ds_bert.bridges.importing import import_data_set
from ds_bert.dataset.store import TokenStore
from ds_bert.instances.collate import collate
from ds_bert.tokenizer.vocabulary import Vocabulary

FORMATS = {
    "tfrecord": "x.tfrecord",
    "hdf5": "x.hdf5",
    "hdf5_variable": "x.h5",
    "jsonl": "x.jsonl",
    "jsonl.gz": "x.jsonl.gz",
    "datasets": "folder",
    "parquet": "x.parquet",
}
NAMES = {"jsonl.gz": "jsonl", "parquet": "datasets"}
_ROWS = 1000


def num_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def one_way(way: str, kind: str, source: Path, target: Path) -> None:
    name = NAMES.get(kind, kind)
    if way == "write":
        export(TokenStore.open(source), None, name, [target])
    else:
        vocabulary = Vocabulary.read(source.parent / "data" / "vocab.txt")
        import_data_set([source], target, vocabulary, overwrite=True)


LIMITS = {"d": (resource.RLIMIT_DATA, "VmData"), "v": (resource.RLIMIT_AS, "VmSize")}


def limit_memory(which: str, more: int) -> None:
    limit, name = LIMITS[which]
    size = status(name) + more
    resource.setrlimit(limit, (size, size))


def child(way: str, kind: str, folder: Path, which: str) -> None:
    """One way, after a warm-up; prints CPU seconds, and peak memory in MB after each."""
    file, watch, peaks = FORMATS[kind], Watch(), []
    for part in ("small", "large"):
        place = folder / part
        source, target = place / "data", place / file
        if way == "read":
            source, target = place / file, place / f"back-{kind}"
        if part == "large" and which in LIMITS:
            limit_memory(which, num_bytes(source) // 2)
        start, wall = time.process_time(), time.monotonic()
        one_way(way, kind, source, target)
        seconds, waited = time.process_time() - start, time.monotonic() - wall
        peaks.append(watch.peak)
    print(json.dumps({"cpu_seconds": seconds, "seconds": waited, "peak_mb": peaks}))


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


class Watch(threading.Thread):
    """Largest anonymous memory that it has seen, in MB; mapped files do not count."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self.start()

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, status("RssAnon") / 1e6)
            time.sleep(0.002)


def run(way: str, kind: str, folder: Path, which: str = "-") -> dict:
    command = [sys.executable, __file__, "--child", way, kind, str(folder), which]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        return {"error": result.stderr.strip().splitlines()[-1][:200]}
    return json.loads(result.stdout.splitlines()[-1])


def first_rows(store: TokenStore, length: int, limit: int, folder: Path) -> None:
    """A data set of the first instances, by way of Parquet."""
    table = store.instances(length)
    path = folder / "first.parquet"
    export_rows(table, min(limit, len(table)), path)
    import_data_set([path], folder / "data", store.vocabulary)
    path.unlink()


def export_rows(table, limit: int, path: Path) -> None:
    from ds_bert.bridges.arrow import Writer

    writer = Writer(path, table, limit, path)
    for first in range(0, limit, _ROWS):
        rows = np.arange(first, min(first + _ROWS, limit))
        writer.write(collate(table, rows, rows * 0, table.options.random_seed))
    writer.close()


def are_equal(found: Path, expected: Path) -> bool:
    tables = [
        (store := TokenStore.open(folder)).instances(store.sequence_lengths[0])
        for folder in (found, expected)
    ]
    for first in range(0, len(tables[1]), _ROWS):
        rows = np.arange(first, min(first + _ROWS, len(tables[1])))
        pair = [collate(table, rows, rows * 0, 0) for table in tables]
        if not all(map(np.array_equal, *pair)):
            return False
    return len(tables[0]) == len(tables[1])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        way, kind, folder, which = sys.argv[2:]
        child(way, kind, Path(folder), which)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--limit", type=int, default=50_000)
    options = parser.parse_args()
    store, rows = TokenStore.open(options.dataset), []
    with TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        for part, limit in (("small", _ROWS), ("large", options.limit)):
            (folder / part).mkdir()
            first_rows(store, options.max_seq_length, limit, folder / part)
        for kind, file in FORMATS.items():
            row = {"format": kind}
            for way in ("write", "read"):
                row[way] = run(way, kind, folder)
            path = folder / "large" / file
            row["mb"] = num_bytes(path) / 1e6
            back = folder / "large" / f"back-{kind}"
            row["is_equal"] = are_equal(back, folder / "large" / "data")
            for which in LIMITS:
                for each in folder.glob("*/back-*"):
                    shutil.rmtree(each)
                found = run("read", kind, folder, which)
                row[f"half_{which}"] = found.get("error", "enough")
            for way in ("write", "read"):
                if "cpu_seconds" in row[way]:
                    row[way]["mb_per_cpu_second"] = row["mb"] / row[way]["cpu_seconds"]
            rows.append(row)
            print(json.dumps(row), flush=True)
    save("bridges", rows)


if __name__ == "__main__":
    main()
