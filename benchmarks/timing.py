"""Time and peak memory of a function on a device; nothing here knows what is measured."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

WARM_UP_SECONDS = 0.3  # the clocks of an idle GPU need a while
REPEATS = {"cuda": 50, "cpu": 3}


class Timing(NamedTuple):
    """Milliseconds of one call.

    Attributes:
        median: over all repetitions.
        p20: a fifth of them took less.
        p80: a fifth of them took more.
    """

    median: float
    p20: float
    p80: float


def median_time(
    function: Callable[[], Any], device: torch.device, repeats: int | None = None
) -> Timing:
    """Time a function after a warm-up, on a GPU by events and with a cold L2 cache.

    Args:
        function: takes nothing; what it returns is dropped.
        device: where it works.
        repeats: number of timed calls; None for `REPEATS`.
    """
    repeats = repeats or REPEATS[device.type]
    measure = _cuda_times if device.type == "cuda" else _cpu_times
    return Timing(*np.percentile(measure(function, repeats), (50, 20, 80)).tolist())


def peak_memory(function: Callable[[], Any], device: torch.device) -> int | None:
    """Bytes that a function allocates at most, its result included; None on a CPU.

    Call it after `median_time`: the first call of a library may allocate for good.
    """
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    start = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - start


def _cuda_times(function: Callable[[], Any], repeats: int) -> list[float]:
    start = time.perf_counter()
    while time.perf_counter() - start < WARM_UP_SECONDS:
        function()
        torch.cuda.synchronize()
    # Read, not written: lines to write back would cost time in the measured call.
    flush = torch.zeros(torch.cuda.get_device_properties().L2_cache_size, device="cuda")
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for before, after in events:
        flush.sum()
        before.record()
        function()
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in events]


def _cpu_times(function: Callable[[], Any], repeats: int) -> list[float]:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append((time.perf_counter() - start) * 1e3)
    return times
