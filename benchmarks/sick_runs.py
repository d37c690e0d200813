"""One healthy run and six sick ones, each small and real, and what their reports say first.

    python benchmarks/sick_runs.py FOLDER TEXT... [--only NAME] [--golden FILE]

Texts are one sentence a line, a blank line between documents; several languages make pairs of
segments easy to learn, so that a healthy run of minutes learns them. The wrong vocabulary is that
of the last text, for the first one. What is in FOLDER already is not made again. `--golden` keeps
rows and baselines for `tests/run_report`. About five minutes on one core.
"""

import argparse
import gzip
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ds_bert import errors
from ds_bert.dataset.store import TokenStore
from ds_bert.run_report.page import RECORD, write_report
from ds_bert.training.batches import TrainingBatches

LENGTH, VOCABULARY = 64, 2048
CHARACTERS, SENTENCES = 900_000, 40  # of each text, and of a document
COPIES = 20
RATE = 3e-3
WAIT = 0.5  # seconds that a step's data takes longer, where they are slow
MODEL = {
    "model_type": "bert",
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
KEPT = (
    *("kind", "step", "loss", "mlm_loss", "mlm_accuracy", "nsp_loss"),
    *("nsp_accuracy", "num_sequences", "num_masked_tokens", "num_tokens", "masked_share"),
    *("learning_rate", "gradient_norm", "skipped_steps", "data_wait_share"),
)


class Arm(NamedTuple):
    """One run.

    Attributes:
        expected: title of what its report has to say first; empty: nothing.
        steps: of the recipe.
        data: name of its data set.
        rate: beside the healthy one.
        minutes: after which it is stopped; "": at its end.
    """

    expected: str
    steps: int
    data: str = "sound"
    rate: float = 1.0
    minutes: str = ""


ARMS = {
    "healthy": Arm("", 700),
    "wrong_vocabulary": Arm("The vocabulary does not fit the text", 200, "foreign"),
    "rate_too_high": Arm("The learning rate is too high", 300, rate=100),
    "rate_too_low": Arm("The learning rate is too low", 300, rate=0.01),
    "shuffled_pairs": Arm("NSP is at chance (next sentence)", 400, "shuffled"),
    "starving": Arm("Training waits for its data", 700, minutes="2"),
    "repeated_corpus": Arm("The corpus repeats itself", 300, "repeated"),
}


def documents(path: str) -> Iterator[str]:
    """Documents of 40 sentences, about 900,000 characters of them."""
    left = CHARACTERS
    for document in Path(path).read_text(encoding="utf-8").split("\n\n"):
        lines = [line for line in document.split("\n") if line.strip()]
        for start in range(0, len(lines), SENTENCES):
            part = "\n".join(lines[start : start + SENTENCES])
            left -= len(part)
            if left < 0:
                return
            yield part


def ds_bert(*arguments: Any) -> int:
    """A command of ds_bert, with what it prints on stderr."""
    code = "import sys; from ds_bert.commands.main import run; run()"
    line = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(line, stdout=sys.stderr).returncode


def write_text(path: Path, parts: list[str]) -> None:
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def make_data(folder: Path, texts: list[str]) -> None:
    """The four data sets, unless they are there."""
    mixed = [document for text in texts for document in documents(text)]
    random.Random(0).shuffle(mixed)
    write_text(folder / "sound.txt", mixed)
    write_text(folder / "repeated.txt", mixed[: len(mixed) // COPIES] * COPIES)
    write_text(folder / "first.txt", list(documents(texts[0])))
    write_text(folder / "last.txt", list(documents(texts[-1])))
    preprocess(folder, "sound", "sound", "sound")
    preprocess(folder, "foreign", "first", "last")
    preprocess(folder, "repeated", "repeated", "sound")
    for part in ("train", "validation"):
        if not (folder / "shuffled" / part).exists():
            shutil.copytree(folder / "sound" / part, folder / "shuffled" / part)
            shuffle_labels(folder / "shuffled" / part)


def preprocess(folder: Path, name: str, text: str, vocabulary: str) -> None:
    vocab = folder / f"{vocabulary}.vocab"
    if not vocab.exists():
        flags = ("--vocab_size", VOCABULARY, "--vocab_file", vocab)
        ds_bert("create-vocab", "--input_file", folder / f"{vocabulary}.txt", *flags)
    files = ("--input_file", folder / f"{text}.txt", "--vocab_file", vocab)
    flags = ("--max_seq_length", LENGTH, "--validation_fraction", 0.05)
    ds_bert("preprocess", *files, "--output_dir", folder / name / "train", *flags)


def shuffle_labels(data: Path) -> None:
    """What happens to labels that are written from another list than the pairs."""
    path = data / f"seq{LENGTH}" / "instances.npy"
    rows = np.load(path, allow_pickle=False)
    rows["is_random_next"] = np.random.default_rng(0).permutation(rows["is_random_next"])
    np.save(path, rows, allow_pickle=False)


def train(folder: Path, name: str, arm: Arm) -> Path:
    """A run, unless it is there."""
    run = folder / "runs" / name
    if (run / "checkpoints").exists():
        return run
    vocab_size = TokenStore.open(folder / arm.data / "train").vocabulary.size
    model = folder / f"{name}.model.json"
    model.write_text(json.dumps({**MODEL, "vocab_size": vocab_size}))
    recipe = {
        "train_batch_size": 32,
        "train_micro_batch_size_per_gpu": 32,
        "optimizer": {"type": "AdamW", "params": {"lr": RATE * arm.rate, "betas": [0.9, 0.98]}},
        "ds_bert": {
            "model": str(model),
            "train_data": str(folder / arm.data / "train"),
            "validation_data": str(folder / arm.data / "validation"),
            "output_dir": str(run),
            "max_seq_length": LENGTH,
            "max_steps": arm.steps,
            "warmup_proportion": 0.1,
            "max_time": arm.minutes,
            "log_interval": max(1, arm.steps // 100),
            "eval_interval": arm.steps // 8,
            "save_interval": 0,
        },
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(recipe, indent=1))
    line = [sys.executable, __file__, "--train", str(path), *["--slow"] * bool(arm.minutes)]
    subprocess.run(line, stdout=(folder / f"{name}.log").open("w"), check=False)
    return run


def train_here(recipe: str, slow: bool) -> int:
    """In a process of its own: the run, with slow data if they have to be."""
    from ds_bert.commands.train import main

    step: Callable = TrainingBatches.step

    def late(*arguments: Any) -> Any:
        time.sleep(WAIT)
        return step(*arguments)

    if slow:
        TrainingBatches.step = late  # type: ignore[method-assign]
    return main(["--ds_config", recipe])


def golden(folder: Path, names: list[str]) -> dict[str, Any]:
    """What the rules ask of each run, small."""
    found = {}
    for name in names:
        run = folder / "runs" / name
        lines = (run / "metrics.jsonl").read_text().splitlines()
        rows = [{k: short(v) for k, v in json.loads(line).items() if k in KEPT} for line in lines]
        record = json.loads((run / "config.json").read_text())
        section = {k: record["ds_bert"][k] for k in ("max_steps", "warmup_proportion")}
        baselines = next(iter(json.loads((run / RECORD).read_text())["baselines"].values()))
        found[name] = {"rows": rows, "ds_bert": section, "baselines": baselines}
        found[name]["expected"] = ARMS[name].expected
    return found


def short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) and value < 1e6 else value


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--only", action="append", choices=ARMS)
    parser.add_argument("--golden", type=Path)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--slow", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        return train_here(args.train, args.slow)
    folder: Path = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    make_data(folder, args.texts)
    names, failed = args.only or list(ARMS), 0
    for name in names:
        start = time.monotonic()
        findings = write_report(train(folder, name, ARMS[name]))
        told = [one.title for one in findings] or [""]
        failed += told[0] != ARMS[name].expected
        verdict = "as expected" if told[0] == ARMS[name].expected else "WRONG"
        seconds = time.monotonic() - start
        print(f"{name:18} {verdict}: {'; '.join(told) or 'nothing'} ({seconds:.0f} s)", flush=True)
    if args.golden:
        with gzip.GzipFile(args.golden, "wb", mtime=0) as file:
            file.write(json.dumps(golden(folder, names)).encode())
    return int(failed > 0)


if __name__ == "__main__":
    errors.exit_with(main)
