"""The dry run: everything checked, and told what the run will take."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from ds_bert import distributed, files
from ds_bert.batching.equation import plan_batch
from ds_bert.costs import gpus as known_gpus
from ds_bert.costs import memory
from ds_bert.costs.contradictions import contradictions
from ds_bert.costs.gpus import GPUs, assumed_speed
from ds_bert.costs.hours import Speed, Work, price, seconds
from ds_bert.costs.memory import Rank
from ds_bert.costs.options import Questions
from ds_bert.costs.shipped import within
from ds_bert.errors import ConfigurationError
from ds_bert.guards.stop import StopRequest
from ds_bert.rehearsal.figures import Sample, rank_of, sample, work_of
from ds_bert.rehearsal.steps import probe
from ds_bert.training.describe import describe
from ds_bert.training.log import duration
from ds_bert.training.micro_batch import MAX_TOKENS, MEMORY_SHARE, candidates
from ds_bert.training.micro_batch_trial import available_memory
from ds_bert.training.plan import Plan


class Place(NamedTuple):
    """Where the run would be, and what is known of it.

    Attributes:
        gpus: None: this machine.
        available: bytes of a rank's device.
        program: bytes that this process has before there is a model; None: not of use there.
        machines: that are paid for.
    """

    gpus: GPUs | None
    available: float
    program: float | None
    machines: int


def dry_run(questions: Questions, plan: Plan, device: torch.device, stop: StopRequest) -> int:
    """Print the plan and its cost (a collective where steps are timed); returns the exit code."""
    distributed.log(describe(plan))
    place, speed = _place(questions.on, plan, device), None
    if questions.probe_steps:
        plan, speed = probe(plan, device, stop, questions.probe_steps)
    elif place.gpus is not None:
        speed = assumed_speed(place.gpus, questions.mfu)
    for name, text in _lines(questions, plan, place, speed):
        distributed.log(f"{name:>16}: {text}")
    if questions.cost_file is not None:
        cost = {"work": asdict(work_of(plan, sample(plan))), "speed": speed and speed._asdict()}
        distributed.on_rank_0(lambda: _write(Path(str(questions.cost_file)), files.as_json(cost)))
    distributed.log("dry run: everything checked, nothing trained")
    return 0


def _write(path: Path, text: str) -> None:
    try:
        files.write_text(path, text + "\n")
    except OSError as error:
        raise ConfigurationError(
            f"--cost_file {path}: cannot be written ({error.strerror}); name another file"
        ) from None


def _place(on: str | None, plan: Plan, device: torch.device) -> Place:
    if on is not None:
        gpus = known_gpus.named(on)
        return Place(gpus, gpus.memory, None, gpus.number)
    available = min(distributed.gather(available_memory(device)))
    if device.type == "cuda":
        return Place(None, available, 0.0, plan.batch.world_size)
    import psutil

    program = psutil.Process().memory_info().rss
    ranks, here = plan.batch.world_size, distributed.ranks_on_this_machine()
    return Place(None, available + program, program, max(1, ranks // here))


def _lines(
    questions: Questions, plan: Plan, place: Place, speed: Speed | None
) -> Iterator[tuple[str, str]]:
    average = sample(plan)
    work = work_of(plan, average)
    batch_problem = _batch_problem(plan, place)
    rank = _rank(plan, place, average)
    parts = memory.parts(rank, place.program)
    yield "memory", _memory(parts, rank, place, speed)
    yield "operations", _operations(work)
    yield from _time(questions, work, place, speed)
    for warning in contradictions(work, sum(parts.values()), place.available, speed, batch_problem):
        yield "warning", warning.text


def _batch_problem(plan: Plan, place: Place) -> str | None:
    """Why the batch cannot be shared out there; None: it can."""
    if place.gpus is None:
        return None
    try:
        plan_batch(plan.recipe, place.gpus.number, ramp=plan.config.batch_ramp)
    except ConfigurationError as error:
        return str(error)
    return None


def _rank(plan: Plan, place: Place, average: Sample) -> Rank:
    """A rank, with the largest micro-batch that fits where it is still to be measured."""

    def rank(size: int) -> Rank:
        return rank_of(plan, average, place.gpus, size)

    if not plan.micro_batch_is_open:
        return rank(plan.batch.micro_batch_size)
    ranks = place.gpus.number if place.gpus else plan.batch.world_size
    share = max(1, plan.batch.ramp.unit // ranks)
    sizes = candidates(share, max(1, MAX_TOKENS // plan.config.max_seq_length))
    limit = MEMORY_SHARE * place.available
    fitting = [s for s in sizes if sum(memory.parts(rank(s), place.program).values()) <= limit]
    return rank(max(fitting, default=1))


def _memory(parts: dict[str, float], rank: Rank, place: Place, speed: Speed | None) -> str:
    told = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items())
    where = f"a {place.gpus.kind}" if place.gpus else "its device"
    text = (
        f"{_gb(sum(parts.values()))} GB of {_gb(place.available)} GB of {where}, a rank: {told} "
        f"(micro-batch {rank.micro_batch_size:,}; counted, not measured)"
    )
    if rank.is_gpu and rank.copy_bytes:
        text += f"; beside it {_gb(rank.copy_bytes)} GB of the host for saves"
    measured = speed.memory if speed else None
    return text + (f"; measured {_gb(measured)} GB" if measured else "")


def _operations(work: Work) -> str:
    return (
        f"{work.total_flops:.3g} FLOPs in all, {work.flops:.3g} for a sequence of "
        f"{work.tokens:,.0f} tokens"
    )


def _time(
    questions: Questions, work: Work, place: Place, speed: Speed | None
) -> Iterator[tuple[str, str]]:
    if speed is None:
        yield (
            "hours",
            "not known; --probe_steps 20 times steps here, --on 8xH100 goes by data sheets",
        )
        return
    took = seconds(work, speed)
    yield (
        "hours",
        f"{took.total / 3600:,.4g} ({duration(took.total)}: training {duration(took.training)}, "
        f"validation {duration(took.validation)}, saves {duration(took.saves)}) at "
        f"{speed.flops_per_second:.3g} FLOP/s, the speed {speed.source}",
    )
    if questions.price_per_hour is not None:
        whole = price(took.total, place.machines, questions.price_per_hour)
        yield "price", f"{whole:,.2f} ({place.machines} x {questions.price_per_hour:g} an hour)"
    if work.max_seconds is not None:
        for line in within(work.max_seconds, speed, work):
            yield f"in {duration(work.max_seconds)}", line


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.2f}"
