"""The folder of a run's checkpoints: names, listing, pruning.

    checkpoints/latest              the name of the newest one, for people
    checkpoints/step_500/           complete or absent
        manifest.json               facts of the run; size and hash of every file
        engine/                     DeepSpeed's state: weights, moments, schedule, loss scale
        random_state_rank_0.pt ...  generators of every rank
        hf/                         the same model as a Hugging Face folder
    checkpoints/step_400.corrupt/   damaged when it was looked at; looked at again
    checkpoints/branch_1/           newer ones that a run has left by going back

docs/checkpoints.md is about who may see which state. DeepSpeed alone overwrites in place, trusts
`latest`, and starts from step 0 if it is missing.
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_bert import files
from ds_bert.checkpoint.manifest import read_manifest

CHECKPOINTS, ENGINE, MODEL, LATEST = "checkpoints", "engine", "hf", "latest"
_NAME = re.compile(r"step_(\d+)(\.corrupt(_\d+)?)?", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint folder and the facts in its files."""

    folder: Path
    facts: dict[str, Any]

    @property
    def model_folder(self) -> Path:
        """The checkpoint's Hugging Face folder."""
        return self.folder / MODEL

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return step_of(self.folder)


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name, set aside or not; -1 for any other name."""
    found = _NAME.fullmatch(folder.name)
    return int(found[1]) if found else -1


def run_of(path: Path) -> Path | None:
    """The run that a path is, or lies in: a run folder, its `checkpoints`, or a step folder."""
    around = (path, path.parent, path.parent.parent)
    return next((folder for folder in around if (folder / CHECKPOINTS).is_dir()), None)


def is_set_aside(folder: Path) -> bool:
    """Whether a folder's name says that it was found damaged."""
    return ".corrupt" in folder.name


def candidates(folder: Path) -> list[Path]:
    """All that a run could go on from below a `checkpoints` folder, the newest first."""
    found = [path for path in folder.glob("step_*") if step_of(path) >= 0]
    return sorted(found, key=lambda path: (-step_of(path), path.name))


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Checkpoints with a manifest below a `checkpoints` folder, the newest first."""
    found = (path for path in candidates(folder) if not is_set_aside(path))
    pairs = ((path, read_manifest(path)) for path in found)
    return [Checkpoint(path, facts) for path, facts in pairs if facts is not None]


def set_latest(folder: Path, checkpoint: Path | None) -> None:
    """Write the name of the newest checkpoint, for people; nothing goes by it."""
    if checkpoint is not None:
        files.write_text(folder / LATEST, checkpoint.name + "\n")
    else:
        (folder / LATEST).unlink(missing_ok=True)


def prune(folder: Path, keep: int, keep_every: int = 0) -> None:
    """Remove older checkpoints, and what interrupted saves have left behind.

    Args:
        folder: a `checkpoints` folder.
        keep: the newest this many stay.
        keep_every: checkpoints of steps that it divides stay; 0: none for that reason.
    """
    for checkpoint in list_checkpoints(folder)[keep:]:
        if keep_every == 0 or checkpoint.step % keep_every:
            _remove(checkpoint.folder)
    for leftover in _leftovers(folder):
        shutil.rmtree(leftover, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that a crash halfway leaves nothing that looks complete."""
    doomed = folder.with_name(f".{folder.name}.deleting")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    files.sync_folder(folder.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def _leftovers(folder: Path) -> Iterator[Path]:
    for ending in ("tmp", "deleting"):
        yield from folder.glob(f".step_*.{ending}")
