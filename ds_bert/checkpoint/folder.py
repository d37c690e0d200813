"""Folders of checkpoints: finding, verifying, pruning.

    checkpoints/latest              the name of the newest one, replaced last
    checkpoints/step_500/           complete or absent
        manifest.json               facts of the run; size and hash of every file
        engine/                     DeepSpeed's state: weights, moments, schedule, loss scale
        random_state_rank_0.pt ...  generators of every rank
        hf/                         the same model as a Hugging Face folder

DeepSpeed alone overwrites in place, trusts `latest`, and starts from step 0 if it is missing.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_bert import distributed, files
from ds_bert.errors import CheckpointError

CHECKPOINTS, ENGINE, MODEL = "checkpoints", "engine", "hf"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint folder and the facts in its files."""

    folder: Path
    facts: dict[str, Any]

    @property
    def model_folder(self) -> Path:
        """The checkpoint's Hugging Face folder."""
        return self.folder / MODEL


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name; -1 for any other name."""
    name, _, step = folder.name.partition("_")
    return int(step) if name == "step" and step.isdigit() else -1


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Complete checkpoints below a `checkpoints` folder, the newest first."""
    found = [path for path in folder.glob("step_*") if step_of(path) >= 0]
    found.sort(key=step_of, reverse=True)
    pairs = ((path, files.read_manifest(path)) for path in found)
    return [Checkpoint(path, facts) for path, facts in pairs if facts is not None]


def find_damage(checkpoint: Checkpoint) -> str | None:
    """Check all files, shared out over the ranks; every rank gets the same answer."""
    recorded = sorted(checkpoint.facts["files"].items())
    mine = recorded[distributed.rank() :: distributed.world_size()]
    reports = (files.damage(checkpoint.folder, name, entry) for name, entry in mine)
    problem = next((report for report in reports if report), None)
    everyone = distributed.gather(problem)
    return next((report for report in everyone if report), None)


def newest_good(folder: Path, set_aside: bool = False) -> Checkpoint | None:
    """The newest undamaged checkpoint below a `checkpoints` folder, or None.

    With `set_aside` damaged ones become `step_N.corrupt`, so that the run can write them again.
    """
    for checkpoint in distributed.from_rank_0(list_checkpoints(folder)):
        problem = find_damage(checkpoint)
        if problem is None:
            return checkpoint
        distributed.log(f"warning: {checkpoint.folder}: {problem}; going back to an older one")
        if set_aside and distributed.rank() == 0:
            aside = checkpoint.folder.with_name(f"{checkpoint.folder.name}.corrupt")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(checkpoint.folder, aside)
        distributed.barrier()
    return None


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint that a user named: a run folder, its `checkpoints`, or a step folder.

    Raises:
        CheckpointError: nothing there, or nothing undamaged.
    """
    path = Path(path)
    if step_of(path) >= 0:
        facts = files.read_manifest(path)
        if facts is None:
            raise CheckpointError(f"{path}: not a complete checkpoint (no readable manifest)")
        checkpoint = Checkpoint(path, facts)
        if problem := find_damage(checkpoint):
            raise CheckpointError(f"{path}: {problem}; name another checkpoint")
        return checkpoint
    folder = path if path.name == CHECKPOINTS else path / CHECKPOINTS
    newest = newest_good(folder)
    if newest is None:
        raise CheckpointError(f"{path}: no complete checkpoint found; check the path")
    return newest


def find_model(path: str) -> tuple[str, Checkpoint | None]:
    """The Hugging Face folder behind a run or a checkpoint; any other name is that of a model.

    Returns:
        folder or hub id, and the checkpoint that the folder belongs to, already verified.

    Raises:
        CheckpointError: a run or checkpoint without anything undamaged.
    """
    folder = Path(path)
    if folder.name == CHECKPOINTS or (folder / CHECKPOINTS).is_dir() or step_of(folder) >= 0:
        checkpoint = open_checkpoint(folder)
        return str(checkpoint.model_folder), checkpoint
    return path, None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` complete checkpoints, and what crashes left behind."""
    for checkpoint in list_checkpoints(folder)[keep:]:
        files.discard(checkpoint.folder)
    for leftover in (*folder.glob(".step_*.tmp"), *folder.glob(".step_*.deleting")):
        shutil.rmtree(leftover, ignore_errors=True)
