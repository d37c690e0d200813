"""Rows of gpu/steps.py: an arm trains on a table for a while, its steps become figures."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from engines import deepspeed_engine, plain_engine
from suite import Report
from synthetic_data import draw_lengths
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from training_arms import HuggingFace, Ours, Work

from ds_bert.dataset.store import TokenStore
from ds_bert.model.flops import peak_flops, training_flops
from ds_bert.model.pretrained import read_model_config

VALUE = "sequences_per_second"
TOKENS = {False: 1 << 16, True: 128}  # of a micro-batch, by whether it is a smoke test
MIN_STEPS = {False: 4, True: 2}
SECONDS = 3.0
TOP_KERNELS = 15
PLAIN = "ours, without DeepSpeed"


class Sample(NamedTuple):
    """One optimizer step: its time, the part of it spent on waiting for data, its size."""

    seconds: float
    wait: float
    sequences: int
    tokens: int
    flops: int


class Bench:
    """One model and one arm at a time, so that it has the memory for itself."""

    def __init__(self, report: Report, model: str, stores: dict[str, TokenStore], folder: Path):
        self.report, self.model, self.stores, self.folder = report, model, stores, folder
        self.device = report.device
        store = stores["real"]
        self.length = max(store.sequence_lengths)
        self.config = read_model_config(model, store.vocabulary, self.length)
        self._name: str | None = None
        self._arm: Any = None
        self._before = 0  # bytes that were allocated before the arm

    def arm(self, impl: str) -> Any:
        """The arm of that name; another one is freed first, so keep no reference to it."""
        if impl != self._name:
            self.free()
            self._before = self._allocated()
            self._arm, self._name = self._build(impl), impl
        return self._arm

    def free(self) -> None:
        """Give back the memory of the arm."""
        if self._arm is not None:
            _loosen(self._arm)
        self._arm = self._name = None
        torch._dynamo.reset()  # whose guards know the model; other sizes count against a limit
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _build(self, impl: str) -> Any:
        if impl.startswith("Hugging Face"):
            return HuggingFace(self.config, self.device, attention=impl.split(", ")[1])
        fp8 = "fp8" in impl
        if find_spec("deepspeed") and impl != PLAIN:
            dataset, output = self.stores["real"].folder, self.folder / "run"
            engine = deepspeed_engine(self.model, dataset, self.length, output, fp8)
        else:
            engine = plain_engine(self.model, self.config, self.device, fp8)
        return Ours(engine, self.device)

    @contextmanager
    def works(self, impl: str, kind: str, length: int) -> Iterator[tuple[Iterator[Work], int]]:
        """Optimizer steps after one that compiles, and the sequences of their micro-batches."""
        size = micro_batch_size(kind, length, TOKENS[self.report.smoke])
        with self.arm(impl).works(self.stores[kind].instances(length), size) as works:
            next(works).run()
            yield works, size // self.arm(impl).parts

    def measure(self, case: str, impl: str, kind: str, length: int, **facts: Any) -> float:
        """Add the row of one arm; returns its sequences per second."""
        with self.works(impl, kind, length) as (works, size):
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            row = figures(self._samples(works), self.device) | {"micro_batch_size": size}
        row["engine"] = self.arm(impl).engine_name
        if self.device.type == "cuda":
            row["peak_bytes"] = torch.cuda.max_memory_allocated() - self._before
        self.report.add(line(case, impl, row), case=case, impl=impl, **row, **facts)
        return row[VALUE]

    def profile(self, case: str, impl: str, kind: str, length: int) -> None:
        """Add a row with the kernels that take most of the GPU's time in one optimizer step."""
        on_gpu = self.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
        with self.works(impl, kind, length) as (works, _):
            work = next(works)
            with profile(activities=activities) as profiler:
                work.run()
                synchronize(self.device)
        total, table = kernel_table(profiler, on_gpu)
        lines = [f"{case}: {total:.1f} ms in kernels of one optimizer step"]
        lines += [
            f"{row['share']:7.1%} {row['ms']:9.2f} ms {row['calls']:6} x {row['kernel'][:80]}"
            for row in table
        ]
        self.report.add("\n".join(lines), case=case, profiled=impl, kernel_ms=total, profile=table)

    def _samples(self, works: Iterator[Work]) -> list[Sample]:
        samples: list[Sample] = []
        synchronize(self.device)
        stop = time.perf_counter() + (0 if self.report.smoke else SECONDS)
        while len(samples) < MIN_STEPS[self.report.smoke] or time.perf_counter() < stop:
            begin = time.perf_counter()
            work = next(works)
            wait = time.perf_counter() - begin
            work.run()
            synchronize(self.device)
            seconds = time.perf_counter() - begin
            flops = training_flops(self.config, work.lengths, work.num_masked)
            samples.append(Sample(seconds, wait, len(work.lengths), sum(work.lengths), flops))
        return samples

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else 0


def _loosen(arm: Any) -> None:
    """Undo what would keep an arm's tensors alive without it."""
    if hasattr(engine := getattr(arm, "engine", None), "destroy"):
        engine.destroy()
    for parameter in arm.model.parameters():
        vars(parameter).clear()  # DeepSpeed's bound methods: cycles that Python cannot collect
        parameter.grad = None


def micro_batch_size(kind: str, length: int, num_tokens: int) -> int:
    """Sequences that have about this many tokens; a multiple of 8 where there are that many."""
    size = int(num_tokens / draw_lengths(kind, length, 100_000).mean())
    return size // 8 * 8 or size


def figures(samples: list[Sample], device: torch.device) -> dict[str, Any]:
    """Medians and percentiles over optimizer steps."""
    seconds, wait, sequences, tokens, flops = np.array(samples, dtype=np.float64).T
    row: dict[str, Any] = {}
    for name, values in (("ms", seconds * 1e3), (VALUE, sequences / seconds)):
        keys = (name, f"{name}_p20", f"{name}_p80")
        row |= dict(zip(keys, np.percentile(values, (50, 20, 80)).tolist(), strict=True))
    speed, peak = flops.sum() / seconds.sum(), peak_flops(device)
    return row | {
        "tokens_per_second": float(np.median(tokens / seconds)),
        "tflops_per_second": float(speed / 1e12),
        "mfu": float(speed / peak) if peak else None,
        "wait": float(wait.sum() / seconds.sum()),
        "steps": len(samples),
    }


def kernel_table(profiler: profile, on_gpu: bool) -> tuple[float, list[dict[str, Any]]]:
    """Milliseconds of all kernels (of all operations on a CPU), and the longest ones."""
    kind, field = DeviceType.CPU, "self_cpu_time_total"
    if on_gpu:
        kind, field = DeviceType.CUDA, "self_device_time_total"
    events = [
        event
        for event in profiler.key_averages()
        if event.device_type == kind and not event.is_user_annotation  # those span kernels
    ]
    times = {event.key: getattr(event, field) / 1e3 for event in events}
    calls = {event.key: event.count for event in events}
    total = sum(times.values())
    longest = sorted(times, key=lambda name: -times[name])[:TOP_KERNELS]
    return total, [
        {"kernel": name, "calls": calls[name], "ms": times[name], "share": times[name] / total}
        for name in longest
    ]


def line(case: str, impl: str, row: dict[str, Any]) -> str:
    text = (
        f"{case:28} {impl:24} {row[VALUE]:9,.1f} seq/s {row['tokens_per_second']:10,.0f} tokens/s"
    )
    if row["mfu"] is not None:
        text += f"  MFU {row['mfu']:5.1%}"
    if "peak_bytes" in row:
        text += f"  {row['peak_bytes'] / 1e9:5.1f} GB"
    return f"{text}  waits {row['wait']:.2%}  micro-batch {row['micro_batch_size']}"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
