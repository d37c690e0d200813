"""Losses of every recipe that comes with ds_bert, scaled down: 50 steps of a tiny model on a CPU.

    python benchmarks/loss/recipes.py FOLDER [--steps 50] [--recipe NAME ...]

FOLDER keeps corpus, data sets and runs. The model is the demo's, 2 layers of 64; batches are of 32
sequences of 128 tokens, or 8 of 512. All else is the recipe's, through ds_bert/train.py: optimizer,
peak rate, clipping, precision, and the form of the schedule, drawn together to these steps. Phases
2 start from phases 1, and what goes on from a released BERT from google_base_128. The rates are
made for other models and batches, so this shows that a recipe runs and learns, and not how well.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

from machine import ROOT, save

from ds_bert import errors, recipes
from ds_bert.commands.train import parse_command_line
from ds_bert.config import TrainingConfig

MODEL, VOCAB_SIZE, LENGTHS = "ds_configs/demo/model.json", 4096, (128, 512)
BATCH = {128: 32, 512: 8}
LAST = 5  # steps that the last loss is the mean of
STARTS = {  # in this order: who starts from whom
    "recipes/google_base_128": None,
    "recipes/google_base_512": "recipes/google_base_128",
    "seq128": None,
    "seq512": "seq128",
    "recipes/bing_bert_64k_128": None,
    "recipes/bing_bert_64k_512": "recipes/bing_bert_64k_128",
    "recipes/24hbert": None,
    "recipes/mosaicbert_baseline": None,
    "continue/seq128": "recipes/google_base_128",
    "continue/seq512": "continue/seq128",
}


def command(*words: Any) -> None:
    subprocess.run([sys.executable, *map(str, words)], check=True, cwd=ROOT, capture_output=True)


def make_data(folder: Path) -> None:
    """Corpus, vocabulary and a data set for each objective; what is there stays."""
    text, vocabulary = folder / "corpus.txt", folder / "vocab.txt"
    command("scripts/make_demo_corpus.py", "--output_file", text)
    if not vocabulary.exists():
        flags = ("--vocab_size", VOCAB_SIZE, "--vocab_file", vocabulary)
        command("scripts/create_vocab.py", "--input_file", text, *flags)
    for objective in ("mlm+nsp", "mlm"):
        flags = ("--vocab_file", vocabulary, "--objective", objective)
        flags += ("--max_seq_length", ",".join(map(str, LENGTHS)), "--output_dir")
        command("scripts/preprocess.py", "--input_file", text, *flags, folder / objective)


def scaled_down(name: str, steps: int, folder: Path) -> Path:
    """The recipe for a tiny model, a small batch and few steps; returns its file."""
    config, recipe = parse_command_line(["--ds_config", name])
    section = json.loads(recipes.find(name).read_text())["ds_bert"]
    start = STARTS[name]
    share = steps / config.max_steps
    section |= {
        "model": MODEL,
        "train_data": str(folder / config.objective),
        "validation_data": "",
        "output_dir": str(run_of(name, folder)),
        "max_steps": steps,
        "warmup_steps": None,
        "warmup_proportion": config.num_warmup_steps / config.max_steps,
        "log_interval": 1,
        "save_interval": 0,
        "report_seconds": 0,
        "init_from": str(run_of(start, folder)) if start else None,
    }
    if config.decay_step:
        section["decay_step"] = max(1, round(config.decay_step * share))
    batch = BATCH[config.max_seq_length]
    sizes = {"train_batch_size": batch, "train_micro_batch_size_per_gpu": batch}
    path = folder / f"{name.replace('/', '_')}.json"
    path.write_text(json.dumps(recipe | sizes | {"ds_bert": section}))
    return path


def run_of(name: str, folder: Path) -> Path:
    return folder / "runs" / name


def measure(name: str, steps: int, folder: Path) -> dict[str, Any]:
    """Train and read what the log says."""
    path = scaled_down(name, steps, folder)
    command("ds_bert/train.py", "--ds_config", path)
    log = (run_of(name, folder) / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in log]
    assert len(losses) == steps, path
    recipe: dict[str, Any] = json.loads(path.read_text())
    return {
        "case": name,
        "impl": recipe["optimizer"]["type"],
        "schedule": recipe["ds_bert"].get("lr_scheduler_type", TrainingConfig.lr_scheduler_type),
        "learning_rate": recipe["optimizer"]["params"]["lr"],
        "first_loss": losses[0],
        "last_loss": sum(losses[-LAST:]) / len(losses[-LAST:]),
        "steps": steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=lambda path: Path(path).resolve())
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--recipe", nargs="+", choices=STARTS, default=list(STARTS))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    make_data(args.folder)
    print("| recipe | optimizer | schedule | peak rate | first loss | last loss |")
    print("|---|---|---|---:|---:|---:|")
    rows = []
    for name in args.recipe:
        row = measure(name, args.steps, args.folder)
        rows.append(row)
        print(
            f"| {name} | {row['impl']} | {row['schedule']} | {row['learning_rate']:g} | "
            f"{row['first_loss']:.2f} | {row['last_loss']:.2f} |",
            flush=True,
        )
    if args.recipe == list(STARTS):
        save("recipes", rows)


if __name__ == "__main__":
    errors.exit_with(main)
