"""What ranks read from disk at their start, and in each step: opens and bytes by kind of file.

python benchmarks/cpu/startup_reads.py [--ranks 1 2 4]

Needs strace. Each rank is traced on its own, in a run of 2 and in one of 12 steps of a very small
model. Pages of memory maps that are read are not in the bytes. Ranks import Python packages first,
which is counted as well.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

from machine import save
from synthetic_data import write_dataset

ROOT = Path(__file__).resolve().parents[2]
OPEN = re.compile(r"openat\(.*\) = \d+<([^>]*)>")
READ = re.compile(r"(?:read|pread64)\(\d+<([^>]*)>.*\) = (\d+)$")
MODEL = {
    "model_type": "bert",
    "vocab_size": 30522,
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
SHORT, LONG = 2, 12  # steps


def kind_of(path: str, work: str) -> str | None:
    """Which row of the table a file belongs to; None: no file on a disk."""
    if path.startswith(("/proc", "/sys", "/dev")) or ":[" in path:
        return None
    if path.startswith(f"{work}/data"):
        return "data set" if Path(path).suffix else None
    if path.startswith(f"{work}/run"):
        return "output_dir"
    if path.startswith(work):
        return "recipe and model"
    if path.startswith((f"{ROOT}/ds_bert/", f"{ROOT}/kernels/")) and path.endswith(".py"):
        return "sources of ds_bert"
    if "/numba/" in path and "site-packages" not in path:
        return "compiled functions"
    return "Python and packages"


def counts(log: Path, work: Path) -> Counter:
    """Of a rank with all its threads and children, which have a file each."""
    found: Counter = Counter()
    texts = (path.read_text(errors="replace") for path in work.glob(f"{log.name}.*"))
    for line in "".join(texts).splitlines():
        if opened := OPEN.search(line):
            if kind := kind_of(opened[1], str(work)):
                found[kind, "opens"] += 1
        elif (read := READ.search(line)) and (kind := kind_of(read[1], str(work))):
            found[kind, "bytes"] += int(read[2])
    return found


def run(work: Path, num_ranks: int, steps: int, port: int) -> list[Counter]:
    """Counts of each rank."""
    output = work / f"run_{num_ranks}_{steps}"
    flags = ["--ds_config", work / "recipe.json", "--max_steps", steps, "--output_dir", output]
    processes, logs = [], [work / f"trace_{num_ranks}_{steps}_{rank}" for rank in range(num_ranks)]
    for rank, log in enumerate(logs):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks}
        ranks |= {"LOCAL_WORLD_SIZE": num_ranks, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1"}
        environment |= {name: str(value) for name, value in ranks.items()}
        trace = ["strace", "-ff", "-y", "-o", log, "-e", "signal=none"]
        trace += ["-e", "trace=openat,read,pread64"]
        command = [*trace, sys.executable, ROOT / "ds_bert/train.py", *flags]
        processes.append(subprocess.Popen(list(map(str, command)), env=environment, cwd=work))
    codes = [process.wait() for process in processes]
    assert not any(codes), codes
    return [counts(log, work) for log in logs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    options, rows = parser.parse_args(), []
    with tempfile.TemporaryDirectory(prefix="startup_reads_") as folder:
        work = Path(folder).resolve()
        write_dataset(work / "data", "real", (128,), 50_000)
        (work / "model.json").write_text(json.dumps(MODEL))
        section = {"model": str(work / "model.json"), "max_seq_length": 128, "save_interval": 0}
        section |= {"train_data": str(work / "data"), "validation_data": str(work / "data")}
        section |= {"eval_interval": 0, "max_eval_sequences": 32, "watchdog_seconds": 0}
        optimizer = {"type": "AdamW", "params": {"lr": 1e-4}}
        recipe = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2}
        recipe |= {"optimizer": optimizer, "ds_bert": section}
        (work / "recipe.json").write_text(json.dumps(recipe))
        run(work, 1, 1, 29711)  # compiles
        for num_ranks, steps in [(1, LONG), *((ranks, SHORT) for ranks in options.ranks)]:
            for rank, found in enumerate(run(work, num_ranks, steps, 29712 + num_ranks)):
                for kind in sorted({kind for kind, _ in found}):
                    row = {"ranks": num_ranks, "steps": steps, "rank": rank, "kind": kind}
                    row |= {what: found[kind, what] for what in ("opens", "bytes")}
                    rows.append(row)
                    print(row, flush=True)
    save("startup_reads", rows)


if __name__ == "__main__":
    main()
