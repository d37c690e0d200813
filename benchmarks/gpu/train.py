"""The real ds_bert/train.py: micro-batch "auto", stop and resume, fp8, the deepspeed launcher.

    python benchmarks/gpu/train.py [--smoke]

Twenty steps of LAMB in bf16 on random tokens, each run a process of its own. The first one runs
alone, measures the micro-batch and fills the compiler's caches; then at once: the same once more,
one that is stopped by SIGTERM and goes on, one in fp8, and one under the launcher with one rank.
Weights have to be those of the first run in every bit. Where already the same run twice differs
(attention that adds up with atomics), that is told, and twice its difference is the limit.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # what benchmarks share

import torch
from suite import Report, relative_errors, require, start

require("numba", "ds_bert", "ds_bert_kernels", "deepspeed", "safetensors")
from safetensors.torch import load_file
from synthetic_data import write_dataset

BARS = {"title": "train.py, 20 steps, from start to end", "value": "ms", "unit": "ms"}
STEPS, STOP_AFTER, STOPPED = 20, 3, 75  # the last one is an exit code
FP8_TOLERANCE = 0.02  # of the last loss
TAIL = 2000  # characters of a failed run
TINY = {
    "model_type": "bert", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 1, "max_position_embeddings": 32,
}  # fmt: skip
# Model, tokens of a sequence, sequences of a step, vocabulary; by whether it is a smoke test. Steps
# have to be long enough for a signal to come between them.
SIZES = {False: ("bert-mini", 128, 1024, 30_522), True: ("tiny.json", 32, 8, 512)}


def make_recipe(folder: Path, smoke: bool) -> None:
    """Data set and recipe of all runs."""
    model, length, batch, vocab_size = SIZES[smoke]
    write_dataset(folder / "data", "real", (length,), 1 << 13, vocab_size)
    (folder / "tiny.json").write_text(json.dumps(TINY))
    recipe = {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": "auto",
        "bf16": {"enabled": True},
        "optimizer": {"type": "Lamb", "params": {"lr": 5e-3, "weight_decay": 0.01}},
        "ds_bert": {
            "model": model, "train_data": "data", "validation_data": "", "max_seq_length": length,
            "max_steps": STEPS, "warmup_steps": 2, "log_interval": 1, "save_interval": 0,
            "report_seconds": 0, "report_to": "none",
        },
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe))


class Runs:
    """Starts runs in a folder and tells what came of them."""

    def __init__(self, report: Report, folder: Path):
        self.report, self.folder = report, folder
        # The micro-batch is to be measured, whatever was measured before.
        self.environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}

    def start(self, name: str, *flags: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
        arguments = ["--ds_config", "recipe.json", "--output_dir", name, *flags]
        return subprocess.Popen(
            [sys.executable, *launcher, str(ROOT / "ds_bert/train.py"), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def whole(self, name: str, impl: str, *flags: str, launcher: tuple[str, ...] = ()) -> str:
        """Run to the end and add a row with the time; returns what was printed."""
        begin = time.monotonic()
        output = finished(self.start(name, *flags, launcher=launcher), impl)
        seconds = time.monotonic() - begin
        size, losses = self.record(name)["batch"]["micro_batch_size"], self.losses(name)
        self.report.add(
            f"{impl:24} {seconds:6.1f} s, micro-batch {size}, last loss {losses[-1]:.4f}",
            case="train.py", impl=impl, ms=seconds * 1e3, micro_batch_size=size, losses=losses,
        )  # fmt: skip
        return output

    def record(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / name / "config.json").read_text())

    def losses(self, name: str) -> list[float]:
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    def weights(self, name: str) -> torch.Tensor:
        tensors = load_file(self.folder / name / f"checkpoints/step_{STEPS}/hf/model.safetensors")
        return torch.cat([tensors[key].flatten() for key in sorted(tensors)]).double()


def finished(process: subprocess.Popen, impl: str, code: int = 0) -> str:
    """What a run prints until it ends; anything but the expected exit code is an error."""
    output, _ = process.communicate()
    if process.returncode != code:
        found = f"{impl}: exit code {process.returncode}, expected {code}"
        raise RuntimeError(f"{found}\n{output[-TAIL:]}")
    return output


def stop_and_resume(runs: Runs, name: str) -> None:
    process = runs.start(name)
    printed = []
    for line in process.stdout or ():
        printed.append(line)
        if line.startswith(f"step {STOP_AFTER}/"):
            process.send_signal(signal.SIGTERM)
            break
    try:
        finished(process, "stopped by SIGTERM", STOPPED)
    except RuntimeError as error:
        raise RuntimeError(f"{error}\n{''.join(printed)[-TAIL:]}") from None
    runs.whole(name, "resumed")


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def compare(runs: Runs, name: str, case: str) -> None:
    """Weights in every bit, as far as the same run twice has the same ones."""
    first, again, found = map(runs.weights, ("first", "again", name))
    repeats = torch.equal(first, again)
    noise, error = (relative_errors(("weights",), [one], [first]) for one in (again, found))
    same = {"same_bits": torch.equal(first, found)} if repeats else {}
    runs.report.check(case, error, noise, noise["weights"], **same)


def compare_fp8(runs: Runs) -> None:
    bf16, fp8 = (runs.losses(name)[-1] for name in ("first", "fp8"))
    error = {"loss": abs(fp8 - bf16) / bf16}
    falls = runs.losses("fp8")[0] > fp8
    runs.report.check("fp8, last loss", error, {"loss": 0.0}, FP8_TOLERANCE, falls=falls)


def run_all(report: Report, folder: Path) -> None:
    make_recipe(folder, report.smoke)
    runs = Runs(report, folder)
    output = runs.whole("first", "micro-batch auto, first")
    measured = "(measured, " in output
    report.check("micro-batch auto", {}, {}, 0.0, measured=measured)
    size = str(runs.record("first")["batch"]["micro_batch_size"])
    launcher = ("-m", "deepspeed.launcher.runner", "--num_accelerators", "1")
    launcher += ("--master_port", free_port())
    jobs: dict[str, Callable[[], Any]] = {
        "again": lambda: runs.whole("again", "the same again"),
        "stop and resume": lambda: stop_and_resume(runs, "stopped"),
        "fp8": lambda: runs.whole(
            "fp8", "fp8", "--fp8", "true", "--train_micro_batch_size", size
        ),
        "launcher": lambda: runs.whole("launcher", "deepspeed, one rank", launcher=launcher),
    }  # fmt: skip
    with ThreadPoolExecutor(2 if report.smoke else len(jobs)) as pool:
        futures = {name: pool.submit(job) for name, job in jobs.items()}
    for name, future in futures.items():
        report.attempt(name, future.result)
    repeats = torch.equal(runs.weights("first"), runs.weights("again"))
    words = "the same bits" if repeats else "not the same bits"
    report.add(f"the same run twice: {words}", case="the same run twice", same_bits=repeats)
    report.attempt("resumed", compare, runs, "stopped", "stopped and resumed, weights")
    report.attempt("launcher", compare, runs, "launcher", "deepspeed, one rank, weights")
    report.attempt("fp8", compare_fp8, runs)


def main() -> int:
    report = start("gpu_train", __doc__ or "", BARS)
    with TemporaryDirectory() as name:
        report.attempt("train.py", run_all, report, Path(name))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
