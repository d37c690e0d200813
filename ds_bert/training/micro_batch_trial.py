"""What a micro-batch size costs: speed and memory of real passes on this rank's device."""

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ds_bert import distributed
from ds_bert.instances.collate import sequence_lengths
from ds_bert.model.batch import Batch, make_batch
from ds_bert.model.bert import UnpaddedBert
from ds_bert.rng.streams import permuted
from ds_bert.training.deepspeed_config import precision, weight_dtype, zero_stage
from ds_bert.training.plan import Plan

_SAMPLE = 4096  # sequences of the data set that batches are made of
_BATCHES, _ROUNDS, _SECONDS = 2, 2, 1.0  # of a timing: batches of a round; at least so long
_BUCKET = 500_000_000  # DeepSpeed's default reduce_bucket_size, in elements


class Trial(NamedTuple):
    """One size and what it costs.

    Attributes:
        size: sequences of a micro-batch.
        sequences_per_second: of forward and backward passes, for sequences of average length.
        memory: bytes that a rank of the run needs at its peak.
    """

    size: int
    sequences_per_second: float
    memory: int


class MicroBatchTrials:
    """Tries micro-batch sizes on a model like that of the run; `close` frees it."""

    def __init__(self, plan: Plan, device: torch.device):
        self._plan, self._device = plan, device
        _forget_peak(device)
        self._before = _used_memory(device)
        self._model: UnpaddedBert | None = None

    def __call__(self, size: int) -> Trial | None:
        """Try one size; None: out of memory."""
        try:
            return self._try(size)
        except torch.OutOfMemoryError:
            return None

    def close(self) -> None:
        """Free the model and what was compiled for it."""
        self._model = None
        torch.compiler.reset()
        _forget_peak(self._device)

    def _try(self, size: int) -> Trial:
        if self._model is None:
            self._model = self._build_model()
        _forget_peak(self._device)
        rows, lengths = _sample(self._plan)
        # Memory from the longest sequences: in a long run they do come together.
        longest = rows[np.argsort(-lengths, kind="stable")]
        self._pass(self._batch(longest, 0, size))
        batches = [self._batch(rows, number * size, size) for number in range(_BATCHES)]
        rate = self._tokens_per_second(batches) / float(lengths.mean())
        used = _used_memory(self._device) - self._before
        plan = self._plan.with_micro_batch(size)
        return Trial(size, rate, used + engine_bytes(plan, self._device))

    def _build_model(self) -> UnpaddedBert:
        with self._device:
            model = self._plan.model_class(self._plan.model_config)
        self._plan.prepare(model, self._device)
        return model.to(getattr(torch, weight_dtype(self._plan.recipe))).train()

    def _batch(self, rows: NDArray[np.int64], first: int, size: int) -> Batch:
        indices = rows[(first + np.arange(size)) % len(rows)]
        table = self._plan.train_table
        masks = self._plan.masks.most
        return make_batch(table, indices, np.zeros_like(indices), 0, masks).to(self._device)

    def _pass(self, batch: Batch) -> None:
        """Forward and backward as in the trainer, without the engine."""
        assert self._model is not None
        dtype = self._plan.activation_dtype
        autocast = dtype != self._model.dtype
        with torch.autocast(self._device.type, dtype, enabled=autocast):
            sums = self._model(batch)
        sum(value.loss for value in sums.values()).backward()

    def _tokens_per_second(self, batches: list[Batch]) -> float:
        """By the fastest round, which neither compiles nor shares the device by accident."""
        seconds: list[float] = []
        while len(seconds) < _ROUNDS or sum(seconds) < _SECONDS:
            _wait(self._device)
            start = time.perf_counter()
            for batch in batches:
                self._pass(batch)
            _wait(self._device)
            seconds.append(time.perf_counter() - start)
        return sum(len(batch.input_ids) for batch in batches) / min(seconds)


def engine_bytes(plan: Plan, device: torch.device) -> int:
    """What engine and optimizer hold on a rank besides weights, gradients and activations.

    For P parameters: of each rank's ZeRO partition, P / ranks, fp32 master weights (4 bytes),
    the optimizer's state and the step's gradient (4); a sum of 4 P where 16-bit gradients are
    added up in fp32; and the buckets that gradients are reduced in, which DeepSpeed's bf16
    optimizer with fp32 sums does without. Stage 0 has the optimizer's state alone.
    """
    config, parameters = plan.engine_config, plan.num_parameters
    zero, kind = config["zero_optimization"], precision(config)
    state = plan.optimizer_entry.state_bytes
    if zero_stage(config) == 0:
        return state * parameters
    sums = config.get("data_types", {}).get("grad_accum_dtype") == "fp32" and kind != "fp32"
    needed = (4 + state + 4) * parameters // plan.batch.world_size + 4 * parameters * sums
    if kind == "bf16" and sums:
        return needed
    bucket = int(zero.get("reduce_bucket_size", _BUCKET))
    if device.type == "cpu":  # which commits only the part that is written to
        bucket = min(bucket, parameters)
    return needed + bucket * (4 if kind == "fp32" else 2) * (2 if zero.get("overlap_comm") else 1)


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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
