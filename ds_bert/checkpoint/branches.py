"""Going back: newer checkpoints are moved to a branch, where nothing counts or prunes them.

Otherwise the new ones, being of smaller steps, would be pruned at once, and the next start would go
on from what was left. What is to be done is written down first, so a crash halfway is made good at
the next start.
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ds_bert import distributed, files
from ds_bert.checkpoint.folder import candidates, set_latest, step_of
from ds_bert.errors import CheckpointError

_INTENT = "going_back.json"  # {"step": the newest that stays, "branch": name of the folder}
LOG = "metrics.jsonl"


def set_aside_newer(folder: Path, step: int) -> Path | None:
    """Move checkpoints of later steps, and a copy of the log, to `branch_1`, `branch_2`, ...

    Args:
        folder: a `checkpoints` folder, held by this run's lock.
        step: the newest that stays; -1: none.

    Returns:
        the branch; None if there is nothing newer.
    """
    return distributed.on_rank_0(lambda: _set_aside_newer(folder, step))


def finish(folder: Path) -> None:
    """Make good a crash in `set_aside_newer`; to be called before checkpoints are looked for.

    Raises:
        CheckpointError: the note of it cannot be read.
    """
    distributed.on_rank_0(lambda: _finish(folder))


def _set_aside_newer(folder: Path, step: int) -> Path | None:
    if not any(step_of(path) > step for path in candidates(folder)):
        return None
    names = (folder / f"branch_{number}" for number in range(1, 1_000_000))
    branch = next(path for path in names if not path.exists())
    files.write_text(folder / _INTENT, json.dumps({"step": step, "branch": branch.name}) + "\n")
    return _finish(folder)


def _finish(folder: Path) -> Path | None:
    note = folder / _INTENT
    if not note.exists():
        return None
    try:
        intent = files.parse_json(note.read_text(encoding="utf-8"))
        step, branch = int(intent["step"]), folder / Path(intent["branch"]).name
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{note}: not readable ({error}); look there first") from None
    branch.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):
        if not (branch / LOG).exists():
            shutil.copyfile(folder.parent / LOG, branch / f".{LOG}")
            os.rename(branch / f".{LOG}", branch / LOG)
    newer = [path for path in candidates(folder) if step_of(path) > step]
    for path in newer:
        os.rename(path, branch / path.name)
    files.sync_folder(branch)
    set_latest(folder, next((path for path in candidates(folder)), None))
    note.unlink()
    files.sync_folder(folder)
    return branch
