"""What saving costs training: no saves, saves that training stands still for, saves beside it.

    python benchmarks/cpu/saving.py [--every 8] [--saves 3] [--rounds 2] [--folder DIR]

BERT-base in fp32, Lamb, batches of 4 sequences of 128 tokens. Each run is a process of its own and
rounds alternate. Counted is the time from the end of the first step to the end of the last one,
before the save at the end of the run. "seconds_per_step" is all of it by steps, "still" what each
save took of it (the first takes fresh memory, too), "there" how long after a save was begun its
checkpoint was known to be there, "memory" what was resident at most.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

from machine import save

ARMS = {"off": None, "standing still": False, "beside training": True}
BATCH, LENGTH = 4, 128


def recipe(folder: Path, arm: str, every: int, saves: int) -> Path:
    """Write an arm's recipe; the last of its saves has as many steps after it as the others."""
    is_beside = ARMS[arm]
    section = {
        "model": "bert-base",
        "train_data": str(folder / "data"),
        "validation_data": "",
        "output_dir": str(folder / "run"),
        "max_seq_length": LENGTH,
        "max_steps": every * (saves + 1) - 1,
        "check_interval": 0,
        "keep_checkpoints": 2,
        "save_interval": 0 if is_beside is None else every,
        "async_save": bool(is_beside),
    }
    batch = {"train_batch_size": BATCH, "train_micro_batch_size_per_gpu": BATCH}
    optimizer = {"type": "Lamb", "params": {"lr": 1e-4}}
    path = folder / "recipe.json"
    path.write_text(json.dumps({**batch, "optimizer": optimizer, "ds_bert": section}))
    return path


def train(path: str) -> dict[str, Any]:
    """Run a recipe in this process, with a clock beside it."""
    from ds_bert.commands.train import main as train_main
    from ds_bert.guards import standing
    from ds_bert.training.saves import Saves
    from ds_bert.training.trainer import Trainer

    ends: list[float] = []  # of steps
    still: list[float] = []  # of saves: their own calls, and later ones that end them
    there: list[float] = []
    finish, begin, go_on, took = Trainer._finish, Saves.save, Saves.go_on_if_done, standing.took

    def timed_finish(*args: Any) -> None:
        finish(*args)
        ends.append(time.monotonic())

    def timed_save(saves: Saves, state: Any, write_model: Any, is_last: bool) -> None:
        start = time.monotonic()
        begin(saves, state, write_model, is_last)
        if not is_last:
            still.append(time.monotonic() - start)

    def timed_go_on(saves: Saves) -> None:
        start = time.monotonic()
        go_on(saves)
        if still:
            still[-1] += time.monotonic() - start

    def noted(phase: str, seconds: float) -> None:
        took(phase, seconds)
        there.append(seconds)

    Trainer._finish, Saves.save, Saves.go_on_if_done = timed_finish, timed_save, timed_go_on
    standing.took = noted
    assert train_main(["--ds_config", path]) == 0
    return {
        "seconds_per_step": (ends[-1] - ends[0]) / (len(ends) - 1),
        "still": still,
        "there": there[:-1],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def one_run(arm: str, every: int, saves: int, parent: str | None) -> dict[str, Any]:
    """An arm's run in a process and a folder of its own."""
    from synthetic_data import write_dataset

    with TemporaryDirectory(dir=parent) as folder:
        write_dataset(Path(folder, "data"), "full", (LENGTH,), 4096)
        path = recipe(Path(folder), arm, every, saves)
        command = [sys.executable, __file__, "--run", str(path)]
        output = subprocess.run(command, capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    return json.loads(output.stdout.splitlines()[-1])


def main() -> None:
    """All arms in turn; their rows, and a line with the medians of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=8, help="steps between two saves")
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", help="write below it, to measure its disk")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(train(args.run)))
        return
    rows = []
    for _ in range(args.rounds):
        for arm in ARMS:
            found = one_run(arm, args.every, args.saves, args.folder)
            rows.append({"saving": arm, "every": args.every, **found})
            print(rows[-1], flush=True)
    for arm in ARMS:
        of_arm = [row for row in rows if row["saving"] == arm]
        step = median(row["seconds_per_step"] for row in of_arm)
        still = [seconds for row in of_arm for seconds in row["still"][1:]]
        print(
            f"{arm:>16}: {step:.2f} s a step" + (f", {median(still):.2f} s still" if still else "")
        )
    save("saving_cpu", rows)


if __name__ == "__main__":
    main()
