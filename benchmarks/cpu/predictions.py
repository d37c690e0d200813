"""What a dry run predicts against what the run takes: hours and memory, on this machine's CPU.

    python benchmarks/cpu/predictions.py DATASET [--only NAME ...] [--rounds 3]

DATASET is a folder of scripts/preprocess.py with sequences of 128 tokens. For each model the real
command tells the cost with 20 probe steps, then the real one trains, right after it, both on one
core. Other work on the machine takes part of that core, and another part of it at another time:
"seconds" are by the clock, "core_seconds" are the prediction times the share of the core that the
probe has had, beside the processor time of the run, which is what both would be on a core of their
own. Both are of the training loop, saves included. "memory" is the most that was resident, by the
log and by the kernel. Rounds are added to the rows that are there.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

from machine import ROOT, save

# Layers and hidden size, sequences of a micro-batch, micro-batches of a step, steps.
CASES = {
    "2x128": (2, 128, 16, 1, 200),
    "4x256": (4, 256, 16, 1, 200),
    "6x384": (6, 384, 8, 1, 200),
    "12x768": (12, 768, 4, 1, 50),
}
LENGTH, PROBE, VOCABULARY = 128, 20, 30_522
RESULTS = ROOT / "benchmarks/results/predictions_cpu.json"
_CODE = """
import resource, sys, time
from ds_bert.commands.train import main
from ds_bert.training.trainer import Trainer
train = Trainer.train
def timed(self):
    start, used = time.monotonic(), time.process_time()
    code = train(self)
    print(f"took {time.monotonic() - start} used {time.process_time() - used}")
    return code
Trainer.train = timed
main(sys.argv[1:])
print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}")
"""


def recipe(folder: Path, dataset: str, name: str) -> Path:
    """Write a case's recipe and its model."""
    layers, hidden, size, accumulation, steps = CASES[name]
    model = {
        "model_type": "bert",
        "vocab_size": VOCABULARY,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
    }
    (folder / "model.json").write_text(json.dumps(model))
    section = {
        "model": str(folder / "model.json"),
        "train_data": dataset,
        "validation_data": "",
        "output_dir": str(folder / "run"),
        "max_seq_length": LENGTH,
        "max_steps": steps,
        "warmup_steps": steps // 10,
        "save_interval": steps // 2,
        "log_interval": steps // 20,
    }
    path = folder / "recipe.json"
    batch = {
        "train_batch_size": size * accumulation,
        "train_micro_batch_size_per_gpu": size,
        "optimizer": {"type": "AdamW", "params": {"lr": 5e-4}},
    }
    path.write_text(json.dumps(batch | {"ds_bert": section}))
    return path


def call(path: Path, *flags: str) -> str:
    """The real command's output."""
    command = [sys.executable, "-c", _CODE, "--ds_config", str(path), *flags]
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=one).stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, (pattern, text)
    return float(found[1].replace(",", ""))


def measure(dataset: str, name: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        path = recipe(Path(folder), dataset, name)
        began = time.monotonic()
        told = call(path, "--dry_run", "--probe_steps", str(PROBE))
        probed = time.monotonic()
        done = call(path)
        lines = (Path(folder) / "run/metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    predicted = 3600 * number(r"hours: ([\d.,]+)", told)
    share = number(r"used ([\d.]+)", told) / number(r"^took ([\d.]+)", told)
    row: dict[str, Any] = {
        "model": name,
        "steps": CASES[name][-1],
        "seconds": {"predicted": predicted, "measured": number(r"^took ([\d.]+)", done)},
        "core_seconds": {
            "predicted": predicted * share,
            "measured": number(r"used ([\d.]+)", done),
        },
        "memory": {
            "predicted": 1e9 * number(r"memory: ([\d.,]+) GB", told),
            "probe": 1e9 * number(r"measured ([\d.,]+) GB", told),
            "measured": max(row["memory_bytes"] for row in rows),
            "peak": number(r"^peak (\d+)", done),
        },
        "dry_run_seconds": probed - began,
    }
    for what in ("seconds", "core_seconds", "memory"):
        predicted, measured = row[what]["predicted"], row[what]["measured"]
        row[what]["error"] = predicted / measured - 1
        print(f"{name} {what}: {predicted:.4g}, {measured:.4g}, {row[what]['error']:+.1%}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    for name in args.only:
        rows += [measure(str(Path(args.dataset).resolve()), name) for _ in range(args.rounds)]
    save("predictions_cpu", sorted(rows, key=lambda row: list(CASES).index(row["model"])))


if __name__ == "__main__":
    main()
