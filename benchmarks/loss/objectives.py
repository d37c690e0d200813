"""Whether each objective and each unit of masks learns: the demo's small BERT on its corpus.

    python benchmarks/loss/objectives.py CORPUS VOCAB              CORPUS of `ds-bert demo-corpus`
    python benchmarks/loss/objectives.py CORPUS VOCAB --steps 4    to try the script

Masks of all units are fields of the recipe, over one data set. Validation has the data set's own
masks (single pieces), so that its losses are of one question.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

from machine import ROOT, write

from ds_bert import errors

# Data set, unit of masks, optimizer steps as a multiple of --steps.
ARMS = [
    ("mlm+nsp", "piece", 1),
    ("mlm+nsp", "word", 1),
    ("mlm+nsp", "ngram", 1),
    ("mlm+nsp", "span", 1),
    ("mlm", "piece", 1),
    ("mlm+sop", "piece", 10),  # order is learnt late
]
SHOWN = ("mlm_loss", "mlm_accuracy", "nsp_accuracy", "sop_accuracy")


def run(script: str, *arguments: Any) -> str:
    """Standard output of a command of ds_bert."""
    line = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout


def make_data(corpus: str, vocab: str, objective: str, folder: Path) -> Path:
    """A data set of 128 tokens with its validation part, unless it is there."""
    data = folder / objective / "train"
    files = ("--input_file", corpus, "--vocab_file", vocab, "--output_dir", data)
    flags = ("--max_seq_length", 128, "--validation_fraction", 0.1)
    run("scripts/preprocess.py", *files, "--objective", objective, *flags)
    return data


def train(data: Path, objective: str, unit: str, steps: int, folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl."""
    flags = {
        "objective": objective,
        "masking_unit": unit,
        "train_data": data,
        "validation_data": data.with_name("validation"),
        "output_dir": folder,
        "max_steps": steps,
        "warmup_steps": min(100, steps // 4),
        "log_interval": max(1, steps // 20),
        "eval_interval": 0,
        "save_interval": 0,
    }
    named = [part for name, value in flags.items() for part in (f"--{name}", value)]
    run("ds_bert/train.py", "--ds_config", "demo/seq128", *named)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Training loss at the beginning and the end, and the validation."""
    first, *_, last = [row["mlm_loss"] for row in rows if row["kind"] == "train"]
    validation = next(row for row in rows if row["kind"] == "validation")
    of_validation = {name: validation[name] for name in SHOWN if name in validation}
    return {"first_mlm_loss": first, "last_mlm_loss": last, **of_validation}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus")
    parser.add_argument("vocab")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    table: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        for number, (objective, unit, times) in enumerate(ARMS):
            data = make_data(args.corpus, args.vocab, objective, Path(name))
            steps = times * args.steps
            found = figures(train(data, objective, unit, steps, Path(name) / f"run{number}"))
            table.append({"objective": objective, "masking_unit": unit, "steps": steps, **found})
            print(json.dumps(table[-1]), flush=True)
            write("objectives", table)


if __name__ == "__main__":
    errors.exit_with(main)
