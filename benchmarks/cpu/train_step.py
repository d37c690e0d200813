"""Training on a CPU, whole steps: real tokens per second of train.py and of Hugging Face's Trainer.

python benchmarks/cpu/train_step.py DATASET [--max_seq_length 128] [--rounds 3]
                                            [--only MODEL:PRECISION ...]

Both train the same model on instances of the same data set with AdamW, dropout and the same batch,
each in a process of its own; rounds alternate between them. Needs `pip install accelerate`. Rows
that are not measured again stay.
"""

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

from machine import ROOT, save

CASES = {"bert-mini": (32, 24), "bert-base": (8, 10)}  # sequences in a batch, steps
ALL = [f"{model}:{precision}" for model in CASES for precision in ("fp32", "bf16")]
RESULTS = ROOT / "benchmarks/results/train_step_cpu.json"


def train(dataset: str, model: str, precision: str, length: int, folder: str) -> float:
    """The real command; median rate of its log's rows but the first."""
    batch_size, steps = CASES[model]
    recipe = {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": batch_size,
        "bf16": {"enabled": precision == "bf16"},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
        "ds_bert": {
            "model": model,
            "train_data": dataset,
            "validation_data": "",
            "output_dir": f"{folder}/run",
            "max_seq_length": length,
            "max_steps": steps,
            "log_interval": 2,
            "save_interval": 0,
            "report_seconds": 0,
        },
    }
    Path(folder, "recipe.json").write_text(json.dumps(recipe))
    call("ds_bert/train.py", "--ds_config", f"{folder}/recipe.json")
    rows = map(json.loads, Path(folder, "run/metrics.jsonl").read_text().splitlines())
    return median([row["tokens_per_second"] for row in rows][1:])


def hugging_face(dataset: str, model: str, precision: str, length: int, folder: str) -> float:
    batch_size, steps = CASES[model]
    flags = ["--bf16"] if precision == "bf16" else []
    options = {"model": model, "max_seq_length": length, "batch_size": batch_size, "steps": steps}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    output = call("benchmarks/huggingface_trainer.py", dataset, *arguments, *flags)
    return json.loads(output.splitlines()[-1])["tokens_per_second"]


def call(script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL)
    args = parser.parse_args()
    if find_spec("accelerate") is None:
        parser.error("the Trainer needs accelerate; pip install -c constraints.txt accelerate")
    rows = {_name(row): row for row in json.loads(RESULTS.read_text())["rows"]}
    for name in args.only:
        rows[name] = measure(*name.split(":"), args)
    save("train_step_cpu", [rows[name] for name in ALL if name in rows])


def measure(model: str, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    arms = {"ds_bert": train, "Trainer": hugging_face}
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(args.rounds):
        for name, arm in arms.items():
            with TemporaryDirectory() as folder:
                rate = arm(args.dataset, model, precision, args.max_seq_length, folder)
            rates[name].append(rate)
    ours, theirs = (median(values) for values in rates.values())
    row = {"model": model, "precision": precision, "tokens_per_second": rates}
    print(f"{model} {precision} {ours:,.0f} {theirs:,.0f} {ours / theirs:.2f}x", flush=True)
    return row | {"ratio": ours / theirs}


def _name(row: dict[str, Any]) -> str:
    return f"{row['model']}:{row['precision']}"


if __name__ == "__main__":
    main()
