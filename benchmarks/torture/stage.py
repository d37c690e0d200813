"""What all faults start from: a small corpus, its data, a small model, and undisturbed runs."""

import hashlib
import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture.launch import launch
from torture.processes import Bad, Command, Job, reason

ROOT = Path(__file__).resolve().parents[2]
TRAIN, SABOTEUR = ROOT / "ds_bert/train.py", Path(__file__).with_name("saboteur.py")
RANKS = 2
STEPS, INTERVAL = 60, 10  # of a run; between checkpoints, and between validations
CHECKPOINTS = range(INTERVAL, STEPS + 1, INTERVAL)
MODEL = {
    "model_type": "bert",
    "vocab_size": 1500,
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
RECIPE: dict[str, Any] = {
    "train_batch_size": 8,
    "train_micro_batch_size_per_gpu": 2,
    "optimizer": {"type": "Lamb", "params": {"lr": 0.005, "weight_decay": 0.01}},
    "ds_bert": {
        "model": "model.json",
        "train_data": "data/train",
        "validation_data": "data/validation",
        "output_dir": "run",
        "max_seq_length": 32,
        "max_steps": STEPS,
        "warmup_steps": 2,
        "log_interval": 1,
        "eval_interval": INTERVAL,
        "save_interval": INTERVAL,
        "report_seconds": 0,
    },
}
# Of the same seed and data, so a run under any launcher ends with the weights of its kind.
RECIPES = {
    "fp32": RECIPE,
    "fp16": {**RECIPE, "fp16": {"enabled": True, "initial_scale_power": 20, "hysteresis": 1}},
}
PREPROCESS = ["--max_seq_length", "32", "--num_workers", "2", "--vocab_file", "vocab.txt"]


class Stage:
    """A folder with all that every fault gets a fresh copy of.

    Attributes:
        folder: holds it; `scenes` of faults are made below.
        cuda: whether ranks run on GPUs.
        seconds_to_start: of a run, until its first step.
    """

    def __init__(self, folder: Path, cuda: bool = False) -> None:
        self.folder, self.cuda = folder, cuda
        self.base = folder / "base"
        self.seconds_to_start = 10.0
        self._large_data: Any = None
        self._weights: dict[tuple[str, int], str | None] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What every command runs with."""
        names = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return names if self.cuda else names | {"CUDA_VISIBLE_DEVICES": ""}

    def prepare(self) -> None:
        """Make corpus, vocabulary, data set, model and recipes."""
        self.base.mkdir(parents=True)
        self._script("make_demo_corpus", "--output_file", "text.txt", "--max_megabytes", "0.5")
        self._script(
            *("create_vocab", "--input_file", "text.txt", "--vocab_file", "vocab.txt"),
            *("--vocab_size", str(MODEL["vocab_size"])),
        )
        self._script(
            *("preprocess", "--input_file", "text.txt", "--output_dir", "data/train"),
            *("--validation_fraction", "0.2", *PREPROCESS),
        )
        (self.base / "model.json").write_text(json.dumps(MODEL))
        for name, recipe in RECIPES.items():
            (self.base / f"{name}.json").write_text(json.dumps(recipe))

    def _script(self, name: str, *flags: str) -> None:
        job = Job([self.script(name, *flags, folder=self.base, output=self.base / f"{name}.out")])
        job.end()
        if job.codes != [0]:
            raise Bad(f"{name} without any fault ended with {job.codes[0]}: {reason(job.text)}")

    def script(self, name: str, *flags: str, folder: Path, output: Path) -> Command:
        """A command of scripts/."""
        arguments = [sys.executable, str(ROOT / f"scripts/{name}.py"), *flags]
        return Command(arguments, folder, output, self.environment)

    def undisturbed(self, recipe: str = "fp32", ranks: int = RANKS) -> Path:
        """The folder of a run that nothing happened to, with all of its checkpoints."""
        folder = self.folder / f"undisturbed_{recipe}_{ranks}"
        if (recipe, ranks) not in self._weights:
            self._weights[recipe, ranks] = self._run_undisturbed(folder, recipe, ranks)
            if self.cuda:  # where two of them differ already, equality says nothing
                again = self._run_undisturbed(
                    folder.with_name(f"{folder.name}_again"), recipe, ranks
                )
                if again != self._weights[recipe, ranks]:
                    self._weights[recipe, ranks] = None
        return folder

    def weights(self, recipe: str, ranks: int) -> str | None:
        """The hash that final weights are compared with; None where they cannot be."""
        self.undisturbed(recipe, ranks)
        return self._weights[recipe, ranks]

    def large_data(self, make: Callable[[], Any]) -> Any:
        """What `make` returns, made once: an undisturbed data set of a large text."""
        if self._large_data is None:
            self._large_data = make()
        return self._large_data

    def _run_undisturbed(self, folder: Path, recipe: str, ranks: int) -> str:
        command = [str(TRAIN), "--ds_config", f"{recipe}.json", "--output_dir", str(folder)]
        command += ["--keep_checkpoints", "100"]
        launcher = "ranks" if ranks > 1 else "python"
        output = folder.with_suffix(".out")
        job = Job(launch(launcher, command, self.base, output, self.environment, ranks))
        start = time.monotonic()
        job.wait_for_line("step 1/")
        self.seconds_to_start = time.monotonic() - start
        job.end()
        if set(job.codes) != {0}:
            raise Bad(f"a run without any fault ended with {job.codes}: {reason(job.text)}")
        return final_weights(folder)

    def copy(self, into: Path) -> None:
        """A fresh copy of data, model and recipes."""
        shutil.copytree(self.base, into, ignore=shutil.ignore_patterns("*.out"))


def final_weights(run: Path) -> str:
    """Hash of the fp32 weights in the last checkpoint of a finished run."""
    path = run / f"checkpoints/step_{STEPS}/hf/model.safetensors"
    if not path.is_file():
        raise Bad(f"there is no checkpoint of step {STEPS}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder, without the lock."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.lock"
    }


def random_of(seed: int, name: str) -> random.Random:
    """The random numbers of one fault, so that its row can be repeated."""
    return random.Random(f"{seed}/{name}")
