"""A host dies in the middle of a run: it goes on with the other one, and then with both.

python benchmarks/elastic.py > table.md

Needs root: two hosts with two ranks each are network namespaces with ssh servers
(tests/two_hosts.py), reached by `launch --elastic` through DeepSpeed's launcher and pdsh. Beside it
the same run, undisturbed.
Fails where rows, losses (1e-6) or weights (1e-5 of the update) differ.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import torch
import two_hosts
from data_util import make_store, synthetic_text
from safetensors.torch import load_file
from training_util import MODEL, write_recipe

VOCABULARY = ROOT / "tests/golden/vocab/uncased_vocab.txt"
STEPS, PACE = 60, 0.25  # seconds that a step takes at least
BEFORE, BETWEEN = 10, 5  # steps on both hosts, and on one
PATIENCE = 900.0  # seconds
# The program that is launched: tells the rows of each step, and the weights before the first.
PROGRAM = f"""
import json, time
from pathlib import Path
import torch
from ds_bert import distributed
from ds_bert.commands.train import main
from ds_bert.errors import exit_with
from ds_bert.training.trainer import Trainer

original = Trainer._step

def step(trainer, batch):
    folder = Path(trainer.config.output_dir)
    number, rank, ranks = trainer.state.step + 1, distributed.rank(), distributed.world_size()
    if number == 1 and rank == 0:
        torch.save(trainer.engine.module.state_dict(), folder / "initial.pt")
    rows = json.dumps([int(row) for rows in batch.rows for row in rows])
    (folder / f"rows_{{number}}_{{ranks}}_{{rank}}.json").write_text(rows)
    time.sleep({PACE})
    original(trainer, batch)

Trainer._step = step
exit_with(main)
"""


def prepare(place: Path) -> None:
    """Data, the program, hostfiles and recipes."""
    (place / "text.txt").write_text(synthetic_text(40))
    make_store(place / "data", place / "text.txt", VOCABULARY)
    (place / "train.py").write_text(PROGRAM)
    (place / "a_first").write_text("nodea slots=2\nnodeb slots=2\n")
    (place / "b_first").write_text("nodeb slots=2\nnodea slots=2\n")
    section = {"max_seq_length": 128, "max_steps": STEPS, "log_interval": 1, "save_interval": 4}
    section |= {"validation_data": "", "watchdog_seconds": 10}
    for name, rate in (("Lamb", 0.01), ("AdamW", 0.002)):
        optimizer = {"type": name, "params": {"lr": rate}}
        path = write_recipe(place, place / "data", section=section, optimizer=optimizer)
        path.rename(place / f"{name}.json")
    still = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    (place / "model.json").write_text(json.dumps(MODEL | still | {"max_position_embeddings": 128}))


def command(hostfile: str, name: str, run: str, *flags: str) -> list[str]:
    """The launch of a recipe into a folder."""
    launch = [sys.executable, str(ROOT / "scripts/launch.py"), *flags, "--hostfile", hostfile]
    return [*launch, "train.py", "--ds_config", f"{name}.json", "--output_dir", run]


def lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of JSON that are there."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def steps(run: Path) -> int:
    """The last step in the log."""
    return max((row["step"] for row in lines(run / "metrics.jsonl")), default=0)


def wait(job: subprocess.Popen, holds: Callable[[], bool]) -> float:
    """Seconds until something holds while a job runs."""
    begin = time.monotonic()
    while not holds():
        assert job.poll() is None, f"ended with {job.returncode}"
        assert time.monotonic() - begin < PATIENCE, "waited too long"
        time.sleep(0.1)
    return time.monotonic() - begin


def disturbed(
    pair: two_hosts.TwoHosts, job: subprocess.Popen, run: Path, is_silent: bool
) -> list[float]:
    """Lose nodeb, and bring it back; seconds until the run goes on with one host, and with both."""
    diary = run / "launches.jsonl"
    wait(job, lambda: steps(run) >= BEFORE)
    pair.lose("nodeb", is_silent)
    fewer = wait(job, lambda: any(row.get("ranks") == 2 for row in lines(diary)))
    fewer += wait(job, lambda: any(run.glob("rows_*_2_0.json")))
    begin = steps(run)
    wait(job, lambda: steps(run) >= begin + BETWEEN)
    pair.bring_back("nodeb")
    again = wait(job, lambda: "back" in json.dumps(lines(diary)))
    number = steps(run)
    again += wait(job, lambda: steps(run) > number)
    return [fewer, again]


def rows(run: Path, ranks: int) -> dict[int, list[int]]:
    """The rows of each step that this number of ranks has begun together, in order."""
    found = {}
    for number in range(1, STEPS + 1):
        parts = [run / f"rows_{number}_{ranks}_{rank}.json" for rank in range(ranks)]
        if all(part.exists() for part in parts):
            found[number] = [row for part in parts for row in json.loads(part.read_text())]
    return found


def compare(run: Path, whole: Path) -> tuple[float, float]:
    """The largest difference of a loss, and that of the weights by the update; rows are equal."""
    expected = rows(whole, 4)
    both, one = rows(run, 4), rows(run, 2)
    assert len(expected) == STEPS and {*both, *one} == set(expected)
    assert len(one) >= BETWEEN and max(both) > max(one)
    for found in (both, one):
        assert all(expected[number] == of_step for number, of_step in found.items())
    losses = [[row["loss"] for row in lines(at / "metrics.jsonl")] for at in (run, whole)]
    assert len(losses[0]) == len(losses[1]) == STEPS
    loss = max(abs(a - b) for a, b in zip(*losses, strict=True))
    last = f"checkpoints/step_{STEPS}/hf/model.safetensors"
    found, target = load_file(run / last), load_file(whole / last)
    first = torch.load(whole / "initial.pt", weights_only=True)
    difference = sum(float((found[name] - target[name]).square().sum()) for name in target)
    update = sum(float((first[name] - target[name]).square().sum()) for name in target)
    return loss, (difference / update) ** 0.5


def case(
    pair: two_hosts.TwoHosts, place: Path, hostfile: str, name: str, is_silent: bool
) -> tuple[list[float], float, float]:
    """A recipe undisturbed and disturbed: see `disturbed` and `compare`."""
    whole, run = place / f"whole_{name}", place / f"run_{name}"
    with open(place / f"{name}.log", "w+") as log:
        how: dict[str, Any] = {"cwd": place, "stdout": log, "stderr": log}
        job = pair.start(command(hostfile, name, whole.name), **how)
        try:
            assert job.wait(PATIENCE) == 0
            flags = ("--elastic", "--check_hosts", "1")
            job = pair.start(command(hostfile, name, run.name, *flags), **how)
            seconds = disturbed(pair, job, run, is_silent)
            assert job.wait(PATIENCE) == 0
        except BaseException:
            job.terminate()
            log.seek(0)
            print(log.read()[-8000:], file=sys.stderr)
            raise
    print((run / "launches.jsonl").read_text(), file=sys.stderr)
    return seconds, *compare(run, whole)


def main() -> None:
    """Print a table: what was lost, with which optimizer, seconds and differences."""
    os.environ["PDSH_SSH_ARGS_APPEND"] = "-o ServerAliveInterval=1 -o ServerAliveCountMax=3"
    cases = (
        ("the second host, its connections stay open", "a_first", "Lamb", True),
        ("the first host, where ranks meet", "b_first", "AdamW", False),
    )
    print("| lost | optimizer | one host after | both after | losses differ by | weights by |")
    print("|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        place = Path(first, "work")
        place.mkdir()
        prepare(place)
        with two_hosts.TwoHosts(Path(second)) as pair:
            for what, *how in cases:
                seconds, loss, weights = case(pair, place, *how)
                times = " | ".join(f"{s:.1f} s" for s in seconds)
                print(f"| {what} | {how[1]} | {times} | {loss:.1e} | {weights:.1e} |", flush=True)
                assert loss <= 1e-6 and weights <= 1e-5


if __name__ == "__main__":
    main()
