"""What a micro-batch size costs: speed and memory of the run's own engine on real batches."""

import gc
import io
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ds_bert import distributed
from ds_bert.errors import ConfigurationError
from ds_bert.guards import standing
from ds_bert.instances.collate import sequence_lengths
from ds_bert.model.batch import Batch, make_batch
from ds_bert.rng.streams import permuted
from ds_bert.training.plan import Plan

# Of a recipe; they report, and change nothing that is measured.
REPORTS = (
    *("flops_profiler", "comms_logger", "wall_clock_breakdown", "memory_breakdown", "dump_state"),
)
_SAMPLE = 4096  # sequences of the data set that batches are made of
_BATCHES, _ROUNDS, _SECONDS = 2, 2, 1.0  # of a timing: batches of a round; at least so long
_STEPS = 4  # timed; the first compiles

Build = Callable[[Plan, torch.device], tuple[Any, torch.optim.Optimizer]]


class Trial(NamedTuple):
    """One size and what it costs, on the rank that takes most.

    Attributes:
        size: sequences of a micro-batch.
        sequences_per_second: of a rank, over whole optimizer steps of micro-batches of that size
            and sequences of average length.
        memory: bytes that a rank of the run needs at its peak.
    """

    size: int
    sequences_per_second: float
    memory: int


class MicroBatchTrials:
    """Tries micro-batch sizes on an engine like that of the run; `close` frees it.

    All ranks try the same sizes at the same time. Passes inside an optimizer step have no
    collective, so a rank may run out of memory there and the others learn of it afterwards. The
    step itself takes equally long for all sizes and is timed once.

    The engine accumulates. A run whose step is one micro-batch may be given another optimizer by
    DeepSpeed; that one's time and memory are taken to be the same.
    """

    def __init__(self, plan: Plan, device: torch.device, build: Build):
        self._device, self._build = device, build
        recipe = {key: value for key, value in plan.recipe.items() if key not in REPORTS}
        self._plan = replace(plan, recipe=recipe).with_micro_batch(1)
        self._share = plan.batch.train_batch_size // plan.batch.world_size
        self._rows, self._lengths = _sample(plan)
        _forget_peak(device)
        self._before = _used_memory(device)
        self._engine: Any = None
        self._step: tuple[float, int] | None = None  # seconds and bytes

    def __call__(self, size: int) -> Trial | None:
        """Try one size (a collective); None: out of memory.

        Raises:
            ConfigurationError: there is no memory for the engine or its step.
        """
        if self._engine is None:
            self._engine = self._all_or_error(self._build_engine)
        batches = [self._batch(self._rows, number * size, size) for number in range(_BATCHES)]
        found = distributed.gather(self._try(batches, size))
        if None in found:
            return None
        if self._step is None:
            self._step = self._all_or_error(lambda: self._time_step(batches, found))
        (step, step_memory), seconds = self._step, max(seconds for seconds, _ in found)
        seconds_per_sequence = seconds * self._lengths.mean()
        rate = self._share / (self._share * seconds_per_sequence + step)
        return Trial(size, float(rate), max(step_memory, *(memory for _, memory in found)))

    def close(self) -> None:
        """Free the engine and what was compiled for it."""
        if self._engine is not None:
            self._engine.destroy()
            for parameter in self._engine.module.parameters():
                vars(parameter).clear()  # DeepSpeed's methods of a parameter, which hold it
            self._engine = None
        gc.collect()  # an engine and its hooks hold each other
        torch.compiler.reset()
        _forget_peak(self._device)

    def _all_or_error(self, work: Callable[[], Any]) -> Any:
        """Do what has collectives inside, so that no rank can go on alone."""
        try:
            return work()
        except torch.OutOfMemoryError:
            raise nothing_fits(self._plan) from None

    def _build_engine(self) -> Any:
        with redirect_stdout(io.StringIO()):  # the run tells it of its own
            engine, _ = self._build(self._plan, self._device)
        engine.train()
        return engine

    def _try(self, batches: list[Batch], size: int) -> tuple[float, int] | None:
        """Seconds for a token and bytes of this rank; None: out of memory."""
        try:
            _forget_peak(self._device)
            # Memory from the longest sequences: in a long run they do come together.
            longest = self._rows[np.argsort(-self._lengths, kind="stable")]
            self._pass(self._batch(longest, 0, size))
            if (fp8 := self._engine.module.fp8) is not None:
                fp8.scales.finish_step()  # all steps of a run but the first one have stored scales
            return self._seconds(batches) / _num_tokens(batches), self._used()
        except torch.OutOfMemoryError:
            return None

    def _time_step(self, batches: list[Batch], found: list[Any]) -> tuple[float, int]:
        """Seconds and bytes of the optimizer step, on the rank that takes most."""
        passes = found[distributed.rank()][0] * _num_tokens(batches)
        seconds = []
        for _ in range(_STEPS):
            skipped = self._engine.skipped_steps
            took = self._time(batches, ends_step=True)
            if self._engine.skipped_steps == skipped:  # in fp16 the first ones may be
                seconds.append(took)
        everyone = distributed.gather((max(min(seconds, default=passes) - passes, 0), self._used()))
        return tuple(max(values) for values in zip(*everyone, strict=True))  # type: ignore[return-value]

    def _seconds(self, batches: list[Batch]) -> float:
        """By the fastest round, which neither compiles nor shares the device by accident."""
        seconds: list[float] = []
        while len(seconds) < _ROUNDS or sum(seconds) < _SECONDS:
            seconds.append(self._time(batches))
        return min(seconds)

    def _time(self, batches: list[Batch], ends_step: bool = False) -> float:
        _wait(self._device)
        start = time.perf_counter()
        for batch in batches:
            self._pass(batch, ends_step and batch is batches[-1])
        _wait(self._device)
        return time.perf_counter() - start

    def _pass(self, batch: Batch, ends_step: bool = False) -> None:
        """What the trainer does with a micro-batch."""
        standing.moved()
        self._engine.set_gradient_accumulation_boundary(ends_step)
        sums = self._engine(batch.to(self._device))
        counted = self._engine.module.losses.items()
        loss = sum(sums[name].loss / max(batch.counts[of], 1) for name, of in counted)
        self._engine.backward(loss)
        self._engine.step()

    def _batch(self, rows: NDArray[np.int64], first: int, size: int) -> Batch:
        indices = rows[(first + np.arange(size)) % len(rows)]
        masks = self._plan.masks.most
        batch = make_batch(self._plan.train_table, indices, np.zeros_like(indices), 0, masks)
        return batch.pinned() if self._device.type == "cuda" else batch

    def _used(self) -> int:
        return _used_memory(self._device) - self._before


def nothing_fits(plan: Plan) -> ConfigurationError:
    """The error of a run that finds no micro-batch."""
    return ConfigurationError(
        f'micro-batch "auto": not one sequence of {plan.config.max_seq_length} tokens fits into '
        "the memory of every rank; choose a smaller model or a shorter max_seq_length"
    )


def available_memory(device: torch.device) -> int:
    """Bytes that this rank can still take from its device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available // distributed.ranks_on_this_machine()


def device_facts(device: torch.device) -> dict[str, Any]:
    """What tells one device from another, as JSON values."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {"name": properties.name, "bytes": properties.total_memory}
    import psutil

    return {
        "name": f"cpu, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "bytes": psutil.virtual_memory().total,
        "ranks": distributed.ranks_on_this_machine(),
    }


def _forget_peak(device: torch.device) -> None:
    """Give cached blocks back, of other sizes than a run of the next one would have."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _used_memory(device: torch.device) -> int:
    """The most bytes taken from the device, fragments included: those decide whether a run fits."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    import psutil

    return psutil.Process().memory_info().rss  # never shrinks: distributed._keep_freed_memory


def _sample(plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of some rows of the training data in random order, and their tokens."""
    table = plan.train_table
    rows = permuted(np.arange(min(_SAMPLE, len(table))), len(table), seed=0, epoch=0)
    return rows, sequence_lengths(table, rows)


def _num_tokens(batches: Iterable[Batch]) -> int:
    return sum(batch.num_tokens for batch in batches)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
