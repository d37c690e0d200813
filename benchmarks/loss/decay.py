"""Runs that decay when they are told to (wsd) beside runs that knew their length: the same loss?

    python benchmarks/loss/decay.py CORPUS FOLDER [--seeds 1 2 3]      20 MB of text
    python benchmarks/loss/decay.py CORPUS FOLDER --init_from RUN      from weights that are there
    python benchmarks/loss/decay.py CORPUS FOLDER --unit 10            to try the script

For each seed one run without a decay, and branches of it (`--decay_from`) that end at each of three
lengths, a fifth of it being decay. Beside them a whole run of each length, linear as most recipes
are, and the shortest branch once more as one run from the beginning, which has to be the same bit
for bit. Of the run without a decay the moving average of the weights is judged as well. Model,
data, peak rate, warm-up and masks are the same; validation is of all sequences, on the same masks.
FOLDER keeps vocabulary, data and runs; what is there is not made again.

Exit code: 0, or 1 if a branch is not the run that it stands for.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import numpy as np
from machine import ROOT, write
from plot import draw_file

from ds_bert import errors

MAX_SEQ_LENGTH, VOCAB_SIZE = 32, 1024
LENGTHS, DECAY = (5, 10, 15), 5  # in units of steps; one of the first in so many is decay
UNIT, WARM_UP, POINTS = 200, 0.5, 0.1  # steps; of a unit: warm-up, and between points of a curve
AVERAGED = 0.5  # of a unit: about the steps of the moving average
MODEL = {
    "model_type": "bert",
    "vocab_size": VOCAB_SIZE,
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "max_position_embeddings": MAX_SEQ_LENGTH,
}
ENGINE = {
    "train_batch_size": 32,
    "train_micro_batch_size_per_gpu": 32,
    "optimizer": {"type": "AdamW", "params": {"lr": 2e-3, "betas": [0.9, 0.98]}},
}
CHART = {"title": "Decay branches and whole runs", "value": "curve", "x": "step", "unit": "nats"}


def run(script: str, *arguments: Any) -> str:
    """Standard output of a command, with one thread: then sums have one order in all runs."""
    line = [sys.executable, str(ROOT / script), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    how: dict[str, Any] = {"check": True, "stdout": subprocess.PIPE, "text": True}
    return subprocess.run(line, env=environment, **how).stdout


def make_data(corpus: str, folder: Path) -> Path:
    """The training part of a data set, unless it is there."""
    vocab, data = folder / "vocab.txt", folder / "train"
    if not vocab.exists():
        sizes = ("--vocab_size", VOCAB_SIZE, "--vocab_file", vocab)
        run("scripts/create_vocab.py", "--input_file", corpus, *sizes)
    if not data.exists():
        files = ("--input_file", corpus, "--vocab_file", vocab, "--output_dir", data)
        flags = ("--objective", "mlm", "--max_seq_length", MAX_SEQ_LENGTH)
        run("scripts/preprocess.py", *files, *flags, "--validation_fraction", 0.05)
    return data


class Runs:
    """Runs of one seed in a folder, each made once."""

    def __init__(self, data: Path, folder: Path, seed: int, unit: int, init_from: str | None):
        begun = "_begun" if init_from else ""
        self.folder, self.seed, self.unit = folder / f"seed_{seed}_unit_{unit}{begun}", seed, unit
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "model.json").write_text(json.dumps(MODEL))
        section = {
            "model": str(self.folder / "model.json"),
            "objective": "mlm",
            "train_data": str(data),
            "validation_data": str(data.with_name("validation")),
            "max_seq_length": MAX_SEQ_LENGTH,
            "warmup_steps": round(WARM_UP * unit),
            "seed": seed,
            "init_from": init_from,
            "log_interval": max(1, round(POINTS * unit)),
            "eval_interval": 0,
            "eval_batch_size": 256,
            "max_eval_sequences": 0,
            "save_interval": 0,
            "report_seconds": 0,
            "report_to": "none",
        }
        self.recipe = self.folder / "recipe.json"
        self.recipe.write_text(json.dumps({**ENGINE, "ds_bert": section}))

    def run(self, name: str, **flags: Any) -> Path:
        """The folder of a run with these flags."""
        folder = self.folder / name
        given = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
        if not is_over(folder):
            run("ds_bert/train.py", "--ds_config", self.recipe, "--output_dir", folder, *given)
        return folder

    def linear(self, length: int) -> Path:
        """A whole run."""
        return self.run(f"linear_{length}", max_steps=length * self.unit)

    def stable(self) -> Path:
        """The run that all branches leave, with a checkpoint at each branching."""
        every = (LENGTHS[0] - LENGTHS[0] // DECAY) * self.unit
        last = (LENGTHS[-1] - LENGTHS[-1] // DECAY) * self.unit
        flags: dict[str, Any] = {"max_steps": last, "save_interval": every, "keep_every": every}
        flags["ema_decay"] = 1 - 1 / (AVERAGED * self.unit)
        return self.run("stable", lr_scheduler_type="wsd", decay_steps=0, **flags)

    def branch(self, stable: Path, length: int) -> Path:
        """A decay from the stable run."""
        decay = length // DECAY * self.unit
        start = stable / f"checkpoints/step_{length * self.unit - decay}"
        flags = {"lr_scheduler_type": "wsd", "decay_steps": decay, "decay_from": start}
        return self.run(f"branch_{length}", **flags)

    def whole(self, length: int) -> Path:
        """What a branch stands for, from the beginning."""
        decay, steps = length // DECAY * self.unit, length * self.unit
        flags = {"lr_scheduler_type": "wsd", "decay_steps": decay, "max_steps": steps}
        return self.run(f"whole_{length}", **flags)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Its log."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def is_over(folder: Path) -> bool:
    """Whether a run is at its end, where it validates."""
    is_there = (folder / "metrics.jsonl").exists()
    return is_there and rows_of(folder)[-1]["kind"] == "validation"


def read(folder: Path) -> dict[str, Any]:
    """The loss of its end, and its curve."""
    rows = rows_of(folder)
    train = [row for row in rows if row["kind"] == "train"]
    (validation,) = [row for row in rows if row["kind"] == "validation"]
    return {
        "validation_loss": validation["mlm_loss"],
        "step": [row["step"] for row in train],
        "curve": [row["mlm_loss"] for row in train],
    }


def average_of(folder: Path) -> float:
    """The loss of the moving average at a run's end, on all of its validation data."""
    flags = ("--checkpoint", folder, "--weights", "ema", "--eval_batch_size", 256)
    found: dict[str, Any] = json.loads(run("ds_bert/evaluate.py", *flags))
    return found["mlm_loss"]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """Rows of one seed."""
    about = {"case": f"seed {runs.seed}", "seed": runs.seed}
    stable = runs.stable()
    average = {"average_loss": average_of(stable)}
    rows = [about | {"impl": "ours: no decay", **read(stable), **average}]
    for length in LENGTHS:
        steps = f"{length * runs.unit:,} steps"
        kinds = {"linear": runs.linear(length), "ours: branch": runs.branch(stable, length)}
        rows += [about | {"impl": f"{kind}, {steps}", **read(kinds[kind])} for kind in kinds]
    return rows


def is_same(runs: Runs) -> bool:
    """Whether the shortest branch is bit for bit the run that it stands for."""
    branch, whole = (read(runs.folder / f"branch_{LENGTHS[0]}"), read(runs.whole(LENGTHS[0])))
    number = len(branch["curve"])
    is_equal = branch["curve"] == whole["curve"][-number:]
    return is_equal and branch["validation_loss"] == whole["validation_loss"]


def verdict(rows: list[dict[str, Any]], unit: int, length: int) -> dict[str, Any]:
    """Losses of a length over seeds, their differences, and what all lengths took."""
    steps = f"{length * unit:,} steps"
    kinds = {
        kind: np.array([row["validation_loss"] for row in rows if row["impl"] == name])
        for kind, name in (("branch", f"ours: branch, {steps}"), ("linear", f"linear, {steps}"))
    }
    difference = kinds["branch"] - kinds["linear"]
    return {
        "case": "verdicts",
        "impl": steps,
        **{f"{kind}_mean": float(values.mean()) for kind, values in kinds.items()},
        **{f"{kind}_deviation": _deviation(values) for kind, values in kinds.items()},
        "difference": float(difference.mean()),
        "difference_deviation": _deviation(difference),
    }


def _deviation(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def compute(unit: int) -> dict[str, Any]:
    """Steps that the two ways take for all lengths."""
    last = LENGTHS[-1] - LENGTHS[-1] // DECAY
    branches = unit * (last + sum(length // DECAY for length in LENGTHS))
    whole = unit * sum(LENGTHS)
    return {"branch_steps": branches, "whole_steps": whole, "saved": 1 - branches / whole}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus")
    parser.add_argument("folder", type=lambda path: Path(path).resolve())
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--unit", type=int, default=UNIT, help="steps; the runs are of 5, 10, 15")
    parser.add_argument("--init_from", help="a run or checkpoint whose weights all runs begin with")
    args = parser.parse_args()
    data = make_data(args.corpus, args.folder)
    rows: list[dict[str, Any]] = []
    same = []
    for seed in args.seeds:
        runs = Runs(data, args.folder, seed, args.unit, args.init_from)
        rows += measure(runs)
        same.append(is_same(runs))
        ends = [verdict(rows, args.unit, length) for length in LENGTHS]
        last = {"case": "compute", "impl": "all", "same_as_whole": same, **compute(args.unit)}
        print(json.dumps([*ends, last], indent=1), flush=True)
        path = write("decay_begun" if args.init_from else "decay", [*rows, *ends, last], CHART)
    draw_file(ROOT / path)
    return 0 if all(same) else 1


if __name__ == "__main__":
    errors.exit_with(main)
