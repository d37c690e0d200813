"""Saving the state of a run: each rank seals what it has written, rank 0 commits the exact set.

A disk that fails on one rank is agreed on by all, and nothing of that attempt stays; the older
checkpoints do. docs/checkpoints.md says why this is safe.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from safetensors import SafetensorError

from ds_bert import distributed, files
from ds_bert.checkpoint.folder import ENGINE, MODEL, prune, set_latest
from ds_bert.checkpoint.manifest import write_manifest
from ds_bert.checkpoint.state import STATE, full_weights, random_state, random_state_file
from ds_bert.errors import CheckpointError, TrainingDiverged

SECONDS_TO_SEE = 30.0  # within which rank 0 sees what others have written (caches of NFS)
# The key makes the files convertible to DeepSpeed's universal checkpoints.
UNIVERSAL = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}


class NotSaved(CheckpointError):
    """A checkpoint could not be written; nothing of it stays, and older ones are untouched."""


def save_checkpoint(
    folder: Path,
    step: int,
    engine: Any,
    state: dict[str, Any],
    facts: dict[str, Any],
    write_model: Callable[[Path, dict[str, torch.Tensor]], None],
    before_commit: Callable[[], None] = lambda: None,
) -> Path:
    """Write and commit; called by all ranks.

    Args:
        folder: the run's `checkpoints` folder.
        step: optimizer steps done.
        engine: the DeepSpeed engine.
        state: what the trainer needs to go on; plain numbers and strings.
        facts: what a later run is compared with; goes into the files.
        write_model: called on rank 0 with a folder and the full fp32 weights.
        before_commit: called on rank 0 before the checkpoint appears; raises where it must not.

    Raises:
        TrainingDiverged: weights or moments are not finite; nothing is written.
        NotSaved: the disk is full or fails, on any rank.
    """
    weights = full_weights(engine.module)
    _check_finite(weights, engine.optimizer)
    name = distributed.from_rank_0(f".step_{step}.{secrets.token_hex(4)}.tmp")
    part = Part(folder / name)
    if distributed.rank() == 0:
        with part.failing_quietly():
            part.folder.mkdir(parents=True)
    _agree(part)
    with _writing(engine, part):
        engine.save_checkpoint(
            part.folder, tag=ENGINE, client_state={STATE: state} | UNIVERSAL, save_latest=False
        )
    part.save(random_state(), part.folder / random_state_file(distributed.rank()))
    if distributed.rank() == 0:
        with part.failing_quietly():
            write_model(part.folder / MODEL, weights)
            part.seal_all(part.folder / MODEL)
    entries = _agree(part)
    final = folder / f"step_{step}"
    if distributed.rank() == 0:
        with part.failing_quietly():
            _commit(part.folder, final, entries, {**facts, "step": step}, before_commit)
    _agree(part)
    return final


def tidy(folder: Path, newest: Path, keep: int, keep_every: int) -> None:
    """After a commit: name the newest and prune; a disk that refuses is no error.

    Args:
        folder: a `checkpoints` folder.
        newest: the checkpoint to be named in `latest`.
        keep: see `prune`.
        keep_every: see `prune`.
    """
    if distributed.rank() == 0:
        try:
            set_latest(folder, newest)
            prune(folder, keep, keep_every)
        except OSError as error:
            distributed.log(f"warning: {folder}: older checkpoints stay ({error.strerror})")
    distributed.barrier()


class Part(TorchCheckpointEngine):
    """What one rank writes of a checkpoint; DeepSpeed writes through it as well.

    DeepSpeed waits for all ranks between writes, so one that fails must not leave at once: errors
    of the disk are kept in `problem`.

    Attributes:
        folder: of the attempt.
        sealed: size and hash by relative name, of all that was written.
        problem: the first error, in words.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sealed: dict[str, dict[str, Any]] = {}
        self.problem: str | None = None

    @contextmanager
    def failing_quietly(self) -> Iterator[None]:
        """Keep what a disk, or a file system, says; do nothing more after that."""
        try:
            yield
        except (OSError, SafetensorError, NotSaved) as error:
            self._fail(error)
        except RuntimeError as error:
            # What torch.save raises while it closes a file that the disk has refused to take.
            if not isinstance(error.__context__, OSError):
                raise
            self._fail(error.__context__)

    def _fail(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        self.problem = self.problem or f"{distributed.name()}: {reason}"

    def makedirs(self, path: Any, exist_ok: bool = False) -> None:
        """DeepSpeed's call to make a folder."""
        with self.failing_quietly():
            os.makedirs(path, exist_ok=exist_ok)

    def create(self, info: Any) -> None:
        """DeepSpeed's call before it writes."""

    def save(self, state_dict: Any, path: Any) -> None:
        """DeepSpeed's call to write a file; written and sealed."""
        if self.problem is None:
            with self.failing_quietly():
                with open(path, "wb") as file:  # a full disk is an OSError, by path it is not
                    torch.save(state_dict, file)
                self._seal(Path(path))

    def seal_all(self, folder: Path) -> None:
        """Seal all files below a folder that this rank has written."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self._seal(path)

    def _seal(self, path: Path) -> None:
        self.sealed[path.relative_to(self.folder).as_posix()] = files.seal_file(path)


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
    temporary: Path,
    final: Path,
    entries: dict[str, Any],
    facts: dict[str, Any],
    before_commit: Callable[[], None],
) -> None:
    _wait_for(temporary, entries)
    if final.exists():
        raise NotSaved(f"{final} is there already")
    write_manifest(temporary, entries, facts)
    for folder in [temporary, *(path for path in temporary.rglob("*") if path.is_dir())]:
        files.sync_folder(folder)
    before_commit()
    os.rename(temporary, final)
    files.sync_folder(final.parent)


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
