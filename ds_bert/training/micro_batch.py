"""The micro-batch size of a recipe that says "auto": the fastest that fits into memory.

It is that of the run which is resumed on as many ranks, else what was measured before for such a
run on such a machine, else measured now, on an engine that is gone when the run builds its own.
That happens before the run sets its seeds, so it changes no result.
"""

import json
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ds_bert import __version__, distributed, files
from ds_bert.config import MICRO_BATCH
from ds_bert.training.micro_batch_trial import (
    REPORTS,
    Build,
    MicroBatchTrials,
    Trial,
    available_memory,
    device_facts,
    nothing_fits,
)
from ds_bert.training.plan import Plan

MAX_TOKENS = 2**18  # of a micro-batch of full-length sequences
MAX_SECONDS = 60.0  # of all trials but the first, which compiles
MEMORY_SHARE = 0.92  # of what is available; the rest is for fragments and other libraries
GAIN = 1.02  # a rate that is up to 2 % higher is not worth the memory
# What speed and memory depend on: facts of a plan, and all of a recipe but these keys.
_FACTS = (
    "model",
    "optimizer",
    "precision",
    "world_size",
    "max_seq_length",
    "train_data",
    "objective",
    "masks",
)
_OTHER_KEYS = (MICRO_BATCH, "optimizer", *REPORTS)


def settle(plan: Plan, device: torch.device, build: Build) -> Plan:
    """The plan with its micro-batch size; called by all ranks, which measure together.

    A dry run measures nothing: without an earlier answer the size stays open.

    Args:
        plan: of the run.
        device: of this rank.
        build: makes the engine and optimizer of a plan.

    Raises:
        ConfigurationError: not one sequence fits.
    """
    if not plan.micro_batch_is_open:
        return plan
    size = distributed.from_rank_0(_known(plan, device) if distributed.rank() == 0 else None)
    if size is None and plan.config.dry_run:
        return plan
    if size is None:
        trials = _measure(plan, device, build)
        if not trials:
            raise nothing_fits(plan)
        size = _logged(choose(trials), f"measured, {cache_file()}")
        if distributed.rank() == 0:
            _keep(cache_file(), _facts(plan, device), size)
    return plan.with_micro_batch(size)


def candidates(share: int, max_size: int) -> list[int]:
    """Divisors of a rank's share of the batch: the largest up to each power of two, ascending.

    Args:
        share: sequences of a step on one rank.
        max_size: the largest size to try, at least 1.
    """
    divisors = [size for size in range(1, min(share, max_size) + 1) if share % size == 0]
    return list({(size - 1).bit_length(): size for size in divisors}.values())


def search(
    sizes: Iterable[int],
    measure: Callable[[int], Trial | None],
    memory: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[Trial]:
    """Try sizes in ascending order while they fit, get faster and time is left; log each.

    Args:
        sizes: sequences of a micro-batch.
        measure: what a size costs; None: out of memory.
        memory: bytes that a run may need.
        clock: seconds.

    Returns:
        what fits.
    """
    found: list[Trial] = []
    begin = now = clock()
    for size in sizes:
        trial = measure(size)
        distributed.log(f"{size:>16,}: {_in_words(trial, memory)}")
        if trial is None or trial.memory > memory:
            break
        found.append(trial)
        before, now = now, clock()
        if len(found) == 1:
            begin = now
        # The next size takes about twice as long.
        elif _has_stalled(found) or now - begin + 2 * (now - before) > MAX_SECONDS:
            break
    return found


def choose(trials: list[Trial]) -> int:
    """The smallest size whose rate is within 2 % of the best."""
    best = max(trial.sequences_per_second for trial in trials)
    return next(trial.size for trial in trials if trial.sequences_per_second * GAIN >= best)


def cache_file() -> Path:
    """Where measured sizes are kept; delete it to measure again."""
    return files.cache_folder() / "micro_batch.json"


def _known(plan: Plan, device: torch.device) -> int | None:
    """The size that the run had before, or that was measured before for such a run."""
    if plan.resume_from is not None:
        record = plan.resume_from.folder.parent.parent / "config.json"
        if _fits(plan, size := _recorded_size(record, plan.batch.world_size)):
            return _logged(size, f"as before, {record}")
    cache = cache_file()
    if _fits(plan, size := _cached_size(cache, _facts(plan, device))):
        return _logged(size, f"measured before, {cache}")
    return None


def _measure(plan: Plan, device: torch.device, build: Build) -> list[Trial]:
    """All ranks come to the same answers, so that they try the same sizes."""
    share = plan.batch.divisible_share
    sizes = candidates(share, max(1, MAX_TOKENS // plan.config.max_seq_length))
    memory = MEMORY_SHARE * min(distributed.gather(available_memory(device)))
    distributed.log(f"{'micro-batch':>16}: measuring; up to {memory / 1e9:,.1f} GB may be used")
    with closing(MicroBatchTrials(plan, device, build)) as trials:
        return search(sizes, trials, memory, lambda: distributed.from_rank_0(time.monotonic()))


def _has_stalled(trials: list[Trial]) -> bool:
    """Whether neither of the last two sizes was more than 2 % faster than all before."""
    rates = [trial.sequences_per_second for trial in trials]
    return len(rates) > 2 and max(rates[-2:]) <= GAIN * max(rates[:-2])


def _in_words(trial: Trial | None, memory: float) -> str:
    if trial is None:
        return "out of memory"
    too_much = ", too much" if trial.memory > memory else ""
    return f"{trial.sequences_per_second:,.1f} sequences/s, {trial.memory / 1e9:,.2f} GB{too_much}"


def _logged(size: int, source: str) -> int:
    distributed.log(f"{'micro-batch':>16}: {size:,} ({source})")
    return size


def _fits(plan: Plan, size: Any) -> bool:
    share = plan.batch.divisible_share
    return type(size) is int and size >= 1 and share % size == 0


def _recorded_size(record: Path, world_size: int) -> Any:
    """The size in the config.json of a run of as many ranks, whose memory is alike; or None."""
    try:
        batch = files.parse_json(record.read_text(encoding="utf-8"))["batch"]
        return batch["micro_batch_size"] if batch["world_size"] == world_size else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _facts(plan: Plan, device: torch.device) -> dict[str, Any]:
    """What a measured size is valid for, as JSON values."""
    model = plan.model_config
    return {
        **{name: plan.facts[name] for name in _FACTS},
        **{name: value for name, value in plan.recipe.items() if name not in _OTHER_KEYS},
        "dropout": [model.hidden_dropout_prob, model.attention_probs_dropout_prob],
        "compile_layers": plan.config.compile_layers,
        "fp8": plan.config.fp8,
        "device": device_facts(device),
        "versions": {"torch": version("torch"), "ds_bert": __version__},
    }


def _read_cache(path: Path) -> list[dict[str, Any]]:
    """The entries of the cache; none if it is absent or damaged."""
    try:
        entries = list(files.parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)]


def _cached_size(path: Path, facts: dict[str, Any]) -> Any:
    found = [entry for entry in _read_cache(path) if entry.get("facts") == facts]
    return found[-1].get("micro_batch_size") if found else None


def _keep(path: Path, facts: dict[str, Any], size: int) -> None:
    others = [entry for entry in _read_cache(path) if entry.get("facts") != facts]
    entries = [*others, {"facts": facts, "micro_batch_size": size}]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps(entries, indent=1) + "\n")
    except OSError as error:
        distributed.log(f"warning: {path} cannot be written ({error.strerror}); measured each time")
