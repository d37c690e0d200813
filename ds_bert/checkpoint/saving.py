"""Saving the state of a run: each rank seals what it has written, rank 0 commits the exact set.

A disk that fails on one rank is agreed on by all, and nothing of that attempt stays; the older
checkpoints do. docs/checkpoints.md says why this is safe.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ds_bert import distributed, files
from ds_bert.checkpoint.folder import ENGINE, MODEL, prune, set_latest
from ds_bert.checkpoint.manifest import write_manifest
from ds_bert.checkpoint.part import NotSaved, Part
from ds_bert.checkpoint.state import STATE, full_weights, random_state, random_state_file
from ds_bert.errors import TrainingDiverged

SECONDS_TO_SEE = 30.0  # within which rank 0 sees what others have written (caches of NFS)
# The key makes the files convertible to DeepSpeed's universal checkpoints.
UNIVERSAL = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}

Stages = Generator[Callable[[], None], None, Path]
WriteModel = Callable[[Path, dict[str, torch.Tensor]], None]


def save_in_stages(
    folder: Path,
    step: int,
    engine: Any,
    state: dict[str, Any],
    facts: dict[str, Any],
    write_model: WriteModel,
    before_commit: Callable[[], None] = lambda: None,
    after_commit: Callable[[Path], None] = lambda final: None,
    later: bool = False,
) -> Stages:
    """Write and commit; iterated by all ranks.

    Each stage is work of this rank that may be done in any thread, beside training. It has to be
    done before the next one is asked for, and all ranks ask together: between stages they agree.

    Args:
        folder: the run's `checkpoints` folder.
        step: optimizer steps done.
        engine: the DeepSpeed engine.
        state: what the trainer needs to go on; plain numbers and strings.
        facts: what a later run is compared with; goes into the files.
        write_model: called on rank 0 with a folder and the full fp32 weights.
        before_commit: called on rank 0 before the checkpoint appears; raises where it must not.
        after_commit: called on rank 0 with the checkpoint.
        later: training goes on before the first stage is done, so what it changes is copied.

    Returns:
        the checkpoint.

    Raises:
        TrainingDiverged: weights or moments are not finite; nothing is written.
        NotSaved: the disk is full or fails, on any rank.
    """
    weights = full_weights(engine.module)
    _check_finite(weights, engine.optimizer)
    name = distributed.from_rank_0(f".step_{step}.{secrets.token_hex(4)}.tmp")
    part, final = Part(folder / name, later), folder / f"step_{step}"
    is_rank_0 = distributed.rank() == 0
    if is_rank_0:
        with part.failing_quietly():
            part.folder.mkdir(parents=True)
    _agree(part)
    with _writing(engine, part):
        engine.save_checkpoint(
            part.folder, tag=ENGINE, client_state={STATE: state} | UNIVERSAL, save_latest=False
        )
    part.save(random_state(), part.folder / random_state_file(distributed.rank()))
    work = partial(_write, part, write_model, weights if is_rank_0 else None)
    del weights  # other ranks need them no more
    yield work
    entries = _agree(part)
    facts = {**facts, "step": step}
    work = partial(_commit, part, final, entries, facts, before_commit, after_commit)
    yield work if is_rank_0 else _nothing
    _agree(part)
    return final


def tidy(folder: Path, newest: Path, keep: int, keep_every: int) -> None:
    """After a commit, on rank 0: name the newest and prune; a disk that refuses is no error.

    Args:
        folder: a `checkpoints` folder.
        newest: the checkpoint to be named in `latest`.
        keep: see `prune`.
        keep_every: see `prune`.
    """
    try:
        set_latest(folder, newest)
        prune(folder, keep, keep_every)
    except OSError as error:
        distributed.log(f"warning: {folder}: older checkpoints stay ({error.strerror})")


def _write(part: Part, write_model: WriteModel, weights: dict[str, torch.Tensor] | None) -> None:
    part.write()
    if weights is not None:
        with part.failing_quietly():
            write_model(part.folder / MODEL, weights)
            part.seal_all(part.folder / MODEL)


def _nothing() -> None:
    """The work of a rank that has none."""


def _agree(part: Part) -> dict[str, Any]:
    """The files of all ranks, or what went wrong on one of them.

    Raises:
        NotSaved: on every rank, after rank 0 has removed the attempt.
    """
    everyone = distributed.gather((part.sealed, part.problem))
    problem = next((problem for _, problem in everyone if problem), None)
    if problem is None:
        return {name: entry for sealed, _ in everyone for name, entry in sealed.items()}
    if distributed.rank() == 0:
        shutil.rmtree(part.folder, ignore_errors=True)
    raise NotSaved(f"no checkpoint could be written ({problem})")


def _commit(
    part: Part,
    final: Path,
    entries: dict[str, Any],
    facts: dict[str, Any],
    before_commit: Callable[[], None],
    after_commit: Callable[[Path], None],
) -> None:
    temporary = part.folder
    with part.failing_quietly():
        _wait_for(temporary, entries)
        if final.exists():
            raise NotSaved(f"{final} is there already")
        write_manifest(temporary, entries, facts)
        for folder in [temporary, *(path for path in temporary.rglob("*") if path.is_dir())]:
            files.sync_folder(folder)
        before_commit()
        os.rename(temporary, final)
        files.sync_folder(final.parent)
    if part.problem is None:
        after_commit(final)


def _wait_for(folder: Path, entries: dict[str, Any]) -> None:
    """Wait until rank 0 sees exactly what all ranks have sealed."""
    expected = {name: entry["bytes"] for name, entry in entries.items()}
    deadline = time.monotonic() + SECONDS_TO_SEE
    while (found := _sizes(folder)) != expected:
        if time.monotonic() > deadline:
            differ = sorted(dict(found.items() ^ expected.items()))
            raise NotSaved(f"{folder}: {differ[0]} is not as a rank has written it, as seen here")
        time.sleep(0.2)


def _sizes(folder: Path) -> dict[str, int]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


@contextmanager
def _writing(engine: Any, part: Part) -> Iterator[None]:
    """Let DeepSpeed write through `part`, without the scripts that it would copy beside it."""
    before = engine.checkpoint_engine
    engine.checkpoint_engine = part
    engine._copy_recovery_script = lambda path: None  # ours is `hf/`
    try:
        yield
    finally:
        engine.checkpoint_engine = before
        del engine._copy_recovery_script


def _check_finite(weights: dict[str, torch.Tensor], optimizer: Any) -> None:
    """All weights, and this rank's share of the moments; every rank comes to the same answer."""
    bad = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    bad += [part for mine in distributed.gather(_not_finite_moments(optimizer)) for part in mine]
    if bad:
        raise TrainingDiverged(
            f"{len(bad)} tensors hold numbers that are not finite (first: {bad[0]}), "
            "so they are not saved"
        )


def _not_finite_moments(optimizer: Any) -> list[str]:
    inner = getattr(optimizer, "optimizer", optimizer)  # DeepSpeed's wrapper, or none at stage 0
    return [
        f"{name} of the optimizer on {distributed.name()}"
        for values in inner.state.values()
        for name, value in values.items()
        if isinstance(value, torch.Tensor) and not torch.isfinite(value).all()
    ]
