"""What a watcher sees of a run's folder, and leaves there."""

import errno
import shutil
import time
from pathlib import Path
from typing import Any

import xxhash

from ds_bert import files
from ds_bert.checkpoint.folder import CHECKPOINTS, MODEL, Checkpoint, list_checkpoints
from ds_bert.checkpoint.manifest import damage
from ds_bert.errors import ConfigurationError
from ds_bert.guards.lock import LOCK, SILENCE
from ds_bert.run_report.history import RECORD
from ds_bert.run_report.scores import SCORES


class Life:
    """Whether a run goes on, by what its folder tells: its lock is there, and its time moves.

    The lock is not tried: a run that starts at that moment would find it taken.

    Args:
        run: its folder; need not exist yet.
        patience: seconds that it may be without a process before its end: a launcher starts
            it again, a scheduler gives it another slot.
    """

    def __init__(self, run: Path, patience: float):
        self._run, self._patience = run, patience
        self._beat: int | None = None
        self._since = time.monotonic()

    @property
    def is_going_on(self) -> bool:
        """Whether a process works on it, as last seen."""
        return self._beat is not None and time.monotonic() - self._since <= SILENCE

    def has_ended(self) -> bool:
        """Look again."""
        beat, now = _time_of(self._run / LOCK), time.monotonic()
        if beat != self._beat:
            self._beat, self._since = beat, now
        if beat is not None:
            return now - self._since > max(SILENCE, self._patience)
        return _is_complete(self._run) or now - self._since > self._patience


def _time_of(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _is_complete(run: Path) -> bool:
    """Whether the last checkpoint of a run is there."""
    try:
        record = files.parse_json((run / RECORD).read_text(encoding="utf-8"))
        last = int(record["ds_bert"]["max_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return any(one.step >= last for one in list_checkpoints(run / CHECKPOINTS)[:1])


def fingerprint(checkpoint: Checkpoint) -> str:
    """Hash of its step and its weights: a run that went back has other ones at the same step."""
    parts = [
        entry["xxh3_128"]
        for name, entry in sorted(checkpoint.facts["files"].items())
        if name.startswith(f"{MODEL}/") and name.endswith(".safetensors")
    ]
    return xxhash.xxh3_128_hexdigest(f"{checkpoint.step} {' '.join(parts)}".encode())


def copy_model(checkpoint: Checkpoint, folder: Path) -> str | None:
    """Copy a checkpoint's Hugging Face folder, for its run may delete it at any time.

    Returns:
        why there is no whole copy, or None.

    Raises:
        ConfigurationError: no room for it.
    """
    entries = {
        name: entry
        for name, entry in checkpoint.facts["files"].items()
        if name.startswith(f"{MODEL}/")
    }
    files.require_space(folder, sum(one["bytes"] for one in entries.values()), "a model's copy")
    try:
        for name in entries:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint.folder / name, folder / name)
    except OSError as error:
        if not checkpoint.folder.exists():
            return "its run has deleted it before its turn"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConfigurationError(
                f"{folder}: {error.strerror} while a model was copied there; make room, or set "
                "TMPDIR to a larger disk, and start again: what is scored stays"
            ) from None
        return f"{error.filename} cannot be copied ({error.strerror})"
    return next(filter(None, (damage(folder, name, one) for name, one in entries.items())), None)


def append_score(run: Path, row: dict[str, Any]) -> None:
    """Add a row to the scores of a run.

    Raises:
        ConfigurationError: it cannot be written.
    """
    path = run / SCORES
    try:
        is_cut = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n" * is_cut + files.as_json(row) + "\n")
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be written ({error.strerror}); make room and start again: what is "
            "scored stays"
        ) from None
