"""What saving costs training: no save, one that training stands still for, one beside training.

    python benchmarks/cpu/saving.py [--every 4] [--rounds 3] [--folder DIR]

BERT-base in fp32, Lamb, batches of 4 sequences of 128 tokens, one process. The three ways alternate
within one run, so that all meet the same machine: after every so many steps comes the next way's
save, or none, and "seconds_per_step" is the time from there to the next one by steps. "still" is
what the save took of it, "there" how long after it was begun its checkpoint was known to be there.
Before them each way of saving comes once, uncounted: fresh memory costs its page faults.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

from machine import save
from synthetic_data import write_dataset

from ds_bert.commands.train import main as train
from ds_bert.guards import standing
from ds_bert.training.saves import Saves
from ds_bert.training.trainer import Trainer

WAYS = ("off", "standing still", "beside training")
BATCH, LENGTH = 4, 128


class Clock:
    """Lets a run save in each way in turn, and measures what that takes.

    Args:
        every: steps between two of them.
    """

    def __init__(self, every: int):
        self.every, self.rows = every, []
        self._ends: list[float] = []  # of steps
        self._still = self._there = 0.0

    def way(self, step: int) -> str:
        """The way of what comes after a step."""
        return WAYS[step // self.every % len(WAYS)]

    def is_due(self, saves: Any, step: int) -> bool:
        """Instead of the run's own answer."""
        way = self.way(step)
        saves._config = replace(saves._config, async_save=way == WAYS[2])
        return step % self.every == 0 and way != WAYS[0]

    def after_step(self, number: int) -> None:
        """Before its save; those before it are over."""
        self._ends.append(time.monotonic())
        if number % self.every == 0 and number >= 2 * self.every:
            seconds = (self._ends[-1] - self._ends[-1 - self.every]) / self.every
            row = {"saving": self.way(number - 1), "seconds_per_step": seconds}
            self.rows.append(row | {"still": self._still, "there": self._there})
            print(self.rows[-1], flush=True)
            self._still = self._there = 0.0

    def measure(self) -> None:
        """Put itself into the classes of a run."""
        finish, took = Trainer._finish, standing.took

        def timed_finish(trainer: Trainer, *args: Any) -> None:
            finish(trainer, *args)
            self.after_step(trainer.state.step)

        def timed(original: Any) -> Any:
            def replaced(saves: Saves, *args: Any) -> None:
                start = time.monotonic()
                original(saves, *args)
                self._still += time.monotonic() - start

            return replaced

        def noted(phase: str, seconds: float) -> None:
            took(phase, seconds)
            self._there = seconds

        Trainer._finish, standing.took = timed_finish, noted
        Saves.save, Saves.go_on_if_done = timed(Saves.save), timed(Saves.go_on_if_done)
        Saves.is_due = lambda saves, step: self.is_due(saves, step)


def recipe(folder: Path, steps: int) -> Path:
    """Write the recipe of a run of so many steps."""
    section = {
        "model": "bert-base",
        "train_data": str(folder / "data"),
        "validation_data": "",
        "output_dir": str(folder / "run"),
        "max_seq_length": LENGTH,
        "max_steps": steps,
        "check_interval": 0,
        "keep_checkpoints": 2,
    }
    batch = {"train_batch_size": BATCH, "train_micro_batch_size_per_gpu": BATCH}
    optimizer = {"type": "Lamb", "params": {"lr": 1e-4}}
    path = folder / "recipe.json"
    path.write_text(json.dumps({**batch, "optimizer": optimizer, "ds_bert": section}))
    return path


def main() -> None:
    """One run; its rows, and a line with the medians of each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=4, help="steps between two saves")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="write below it, to measure its disk")
    args = parser.parse_args()
    clock = Clock(args.every)
    clock.measure()
    with TemporaryDirectory(dir=args.folder) as folder:
        write_dataset(Path(folder, "data"), "full", (LENGTH,), 4096)
        steps = args.every * len(WAYS) * (args.rounds + 1)
        assert train(["--ds_config", str(recipe(Path(folder), steps))]) == 0
    rows = clock.rows[len(WAYS) - 1 :]
    for way in WAYS:
        of_way = [row for row in rows if row["saving"] == way]
        medians = (
            f"{name} {median(row[name] for row in of_way):.2f}"
            for name in ("seconds_per_step", "still", "there")
        )
        print(f"{way:>16}: " + ", ".join(medians))
    save("saving_cpu", rows)


if __name__ == "__main__":
    main()
