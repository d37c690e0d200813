"""Whether each objective and each unit of masks learns: a small BERT on a text and its vocabulary.

    python benchmarks/loss/objectives.py CORPUS VOCAB              20 MB or more: order is hard
    python benchmarks/loss/objectives.py CORPUS VOCAB --steps 4    to try the script

Two layers of 128, sequences of 32 tokens, 64 in a step. Masks of all units are fields of the
recipe, over one data set. Validation has the data set's own masks (single pieces), so that its
losses are of one question.
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

MAX_SEQ_LENGTH = 32
# Objective, unit of masks, optimizer steps as a multiple of --steps.
ARMS = [
    ("mlm+sop", "piece", 6),  # order is learnt late
    ("mlm+nsp", "piece", 1),
    ("mlm+nsp", "word", 1),
    ("mlm+nsp", "ngram", 1),
    ("mlm+nsp", "span", 1),
    ("mlm", "piece", 1),
]
MODEL = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "max_position_embeddings": MAX_SEQ_LENGTH,
}
ENGINE = {
    "train_batch_size": 64,
    "train_micro_batch_size_per_gpu": 64,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "betas": [0.9, 0.98]}},
}
SHOWN = ("mlm_loss", "mlm_accuracy", "nsp_accuracy", "sop_accuracy", "num_sequences")


def run(script: str, *arguments: Any) -> str:
    """Standard output of a command of ds_bert."""
    line = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout


def make_data(corpus: str, vocab: str, objective: str, folder: Path) -> Path:
    """A data set with its validation part, unless it is there."""
    data = folder / objective / "train"
    files = ("--input_file", corpus, "--vocab_file", vocab, "--output_dir", data)
    flags = ("--max_seq_length", MAX_SEQ_LENGTH, "--validation_fraction", 0.1)
    run("scripts/preprocess.py", *files, "--objective", objective, *flags)
    return data


def train(data: Path, objective: str, unit: str, steps: int, folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl."""
    folder.mkdir()
    vocab_size = len((data / "vocab.txt").read_text(encoding="utf-8").splitlines())
    (folder / "model.json").write_text(json.dumps({**MODEL, "vocab_size": vocab_size}))
    section = {
        "model": str(folder / "model.json"),
        "objective": objective,
        "masking_unit": unit,
        "train_data": str(data),
        "validation_data": str(data.with_name("validation")),
        "output_dir": str(folder / "run"),
        "max_seq_length": MAX_SEQ_LENGTH,
        "max_steps": steps,
        "warmup_steps": min(200, steps // 4),
        "log_interval": max(1, steps // 20),
        "eval_interval": 0,
        "save_interval": 0,
        "report_seconds": 0,
    }
    (folder / "recipe.json").write_text(json.dumps({**ENGINE, "ds_bert": section}))
    run("ds_bert/train.py", "--ds_config", folder / "recipe.json")
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Training losses of the first and the last twentieth, and the validation."""
    first, *_, last = [row for row in rows if row["kind"] == "train"]
    validation = next(row for row in rows if row["kind"] == "validation")
    of_training = {
        f"{when}_{name}": row[name]
        for when, row in (("first", first), ("last", last))
        for name in ("mlm_loss", "nsp_accuracy", "sop_accuracy")
        if name in row
    }
    return {**of_training, **{name: validation[name] for name in SHOWN if name in validation}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus")
    parser.add_argument("vocab")
    parser.add_argument("--steps", type=int, default=500)
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
