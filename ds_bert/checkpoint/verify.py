"""Finding a checkpoint whose every file is what was written; all ranks get the same answer.

What one rank cannot see and another can is no damage: a mount is lost, a cache is stale. Then the
run stops, and nothing is renamed. Damaged ones are set aside only when a good one has been found.
"""

import os
from pathlib import Path
from typing import Any

from ds_bert import distributed
from ds_bert.checkpoint.folder import (
    CHECKPOINTS,
    Checkpoint,
    candidates,
    is_set_aside,
    step_of,
)
from ds_bert.checkpoint.manifest import damage, read_manifest
from ds_bert.errors import CheckpointError


def find_damage(checkpoint: Checkpoint) -> str | None:
    """Check all files, shared out over the ranks; every rank gets the same answer.

    Raises:
        CheckpointError: some rank sees a file damaged or not at all, another one sees it whole.
    """
    recorded = checkpoint.facts["files"]
    mine = sorted(recorded)[distributed.rank() :: distributed.world_size()]
    reports = distributed.gather(_damage_of(checkpoint, mine))
    suspects = {name: text for report in reports for name, text in report.items()}
    if not suspects:
        return None
    everyone = distributed.gather((distributed.name(), _damage_of(checkpoint, sorted(suspects))))
    name, text = next(iter(suspects.items()))
    sees_it_whole = next((who for who, found in everyone if name not in found), None)
    if sees_it_whole is None:
        return text
    reporter = next(who for who, found in everyone if name in found)
    raise CheckpointError(
        f"{checkpoint.folder}: {reporter} finds that {text}, {sees_it_whole} reads it whole; "
        "look at the disk or mount of the former, then start again (nothing was changed)"
    )


def newest_good(folder: Path, set_aside: bool = False) -> Checkpoint | None:
    """The newest undamaged checkpoint below a `checkpoints` folder, or None.

    Those that were set aside are looked at again. With `set_aside` the damaged ones that are newer
    than the good one become `step_N.corrupt`, so that the run can write them again.
    """
    damaged: list[Path] = []
    for name, facts in distributed.on_rank_0(lambda: _list(folder)):
        path = folder / name  # hosts may have the disk in different places
        problem: str | None = "no readable manifest"
        if facts is not None:
            problem = find_damage(checkpoint := Checkpoint(path, facts))
            if problem is None:
                return _set_aside(checkpoint, damaged) if set_aside else checkpoint
        damaged.append(path)
        distributed.log(f"warning: {path}: {problem}; going back to an older one")
    return None


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint that a user named: a run folder, its `checkpoints`, or a step folder.

    Raises:
        CheckpointError: nothing there, or nothing undamaged.
    """
    path = Path(path)
    if step_of(path) >= 0:
        facts = read_manifest(path)
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


def _list(folder: Path) -> list[tuple[str, dict[str, Any] | None]]:
    return [(path.name, read_manifest(path)) for path in candidates(folder)]


def _damage_of(checkpoint: Checkpoint, names: list[str]) -> dict[str, str]:
    recorded = checkpoint.facts["files"]
    found = ((name, damage(checkpoint.folder, name, recorded[name])) for name in names)
    return {name: text for name, text in found if text is not None}


def _set_aside(good: Checkpoint, damaged: list[Path]) -> Checkpoint:
    """Rename on rank 0: the damaged ones, and a good one that was set aside before."""
    folder = good.folder.with_name(f"step_{good.step}")

    def rename() -> None:
        for path in damaged:
            if not is_set_aside(path):
                os.rename(path, _free_name(path))
        if folder != good.folder:
            os.rename(good.folder, folder)

    distributed.on_rank_0(rename)
    return Checkpoint(folder, good.facts)


def _free_name(path: Path) -> Path:
    numbers = ["", *(f"_{number}" for number in range(2, 1000))]
    names = (path.with_name(f"{path.name}.corrupt{number}") for number in numbers)
    return next(name for name in names if not name.exists())
