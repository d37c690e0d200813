"""Memory and time of cutting a checkpoint anew for another number of ranks.

    python benchmarks/cpu/resharding.py

BERT-base in fp32 at ZeRO stage 1, Lamb, with moments that are not zeros. Four ranks write a
checkpoint; 3, 2 and 1 ranks load it, and 4 by DeepSpeed itself. Memory is anonymous (what is mapped
from files can be dropped at any time) beyond what the rank held before: "copied" when weights and
moments are there, "most" also while ranks then exchange the weights, as after each step.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import torch
from distributed_util import run_ranks
from machine import save

from ds_bert.checkpoint import resharding
from ds_bert.checkpoint.folder import ENGINE, Checkpoint
from ds_bert.checkpoint.state import only_safe_loading

BEFORE, AFTER = 4, (4, 3, 2, 1)


def build() -> Any:
    """An engine of BERT-base."""
    import deepspeed
    from transformers import BertConfig, BertForPreTraining

    from ds_bert.optim.optimizers import OPTIMIZERS, build_optimizer

    torch.manual_seed(0)
    model = BertForPreTraining(BertConfig())
    optimizer = build_optimizer(model, {"type": "Lamb", "params": {"lr": 1e-3}})
    config = {"train_batch_size": int(os.environ["WORLD_SIZE"]), "zero_optimization": {"stage": 1}}
    config["zero_allow_untested_optimizer"] = True
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    OPTIMIZERS["Lamb"].bind(optimizer)
    for state in optimizer.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            state[name].uniform_()
    return engine


def write(folder: str) -> None:
    """Save a checkpoint; on every rank."""
    build().save_checkpoint(folder, tag=ENGINE, save_latest=False)


def load(folder: str) -> dict[str, float]:
    """Bytes and seconds; on every rank."""
    engine = build()
    checkpoint = Checkpoint(Path(folder), {"world_size": BEFORE, "zero_stage": 1})
    copied: list[int] = []
    hand_over = resharding._hand_over
    resharding._hand_over = lambda *args: (copied.append(anonymous()), hand_over(*args))
    before, begin = anonymous(), time.monotonic()
    with only_safe_loading(), open(os.devnull, "w") as silence, redirect_stdout(silence):
        if int(os.environ["WORLD_SIZE"]) == BEFORE:
            most = highest(lambda: engine.load_checkpoint(folder, tag=ENGINE))
        else:
            most = highest(lambda: resharding.load_resharded(checkpoint, engine))
    return {
        "seconds": time.monotonic() - begin,
        "copied": (copied[0] if copied else most) - before,
        "most": most - before,
    }


def anonymous() -> int:
    """Bytes of memory of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def highest(work: Callable[[], Any]) -> int:
    """The most anonymous memory while something is done, looked at every 2 ms."""
    seen, done = [anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    work()
    done.set()
    thread.join()
    return max(seen)


def main() -> None:
    """Write once, load with each number of ranks; the highest figure of all ranks counts."""
    rows = []
    with TemporaryDirectory() as folder:
        run_ranks(write, BEFORE, folder, timeout=600)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        print(f"checkpoint of {BEFORE} ranks: {size / 1e6:,.0f} MB")
        for ranks in AFTER:
            found = run_ranks(load, ranks, folder, timeout=600)
            row = {name: max(rank[name] for rank in found) for name in found[0]}
            by = "DeepSpeed" if ranks == BEFORE else "ds_bert"
            rows.append({"ranks": ranks, "by": by, "checkpoint": size, **row})
            print(rows[-1], flush=True)
    save("resharding", rows)


if __name__ == "__main__":
    main()
