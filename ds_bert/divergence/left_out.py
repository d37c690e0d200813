"""Samples that a run leaves out, and going back to before a divergence.

    left_out.json       in the folder of a run: a list of {"samples": [first, last], ...}

It is read at every start, so a run that goes on leaves the same samples out. `last` is not among
them. A step that would touch a range starts at its end instead; the number of steps stays.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ds_bert import distributed, files
from ds_bert.checkpoint.branches import set_aside_newer
from ds_bert.checkpoint.folder import CHECKPOINTS, candidates, list_checkpoints
from ds_bert.divergence.capsule import Diverged, newest_divergence, now
from ds_bert.errors import CheckpointError, ConfigurationError

FILE = "left_out.json"


@dataclass(frozen=True)
class LeftOut:
    """Ranges [first, last) of samples, ascending."""

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of_run(cls, folder: Path) -> Self:
        """What a run leaves out, as rank 0 reads it.

        Raises:
            ConfigurationError: the file is not as described above.
        """
        entries = distributed.on_rank_0(lambda: read(folder))
        return cls(tuple(sorted((first, last) for first, last in (e["samples"] for e in entries))))

    def next_start(self, sample: int, size: int) -> int:
        """Where a step of `size` samples starts that would start at `sample`."""
        for first, last in self.ranges:
            if first < sample + size and sample < last:
                sample = last
        return sample

    def __str__(self) -> str:
        return ", ".join(f"{first:,} to {last - 1:,}" for first, last in self.ranges)


NOTHING = LeftOut()


def read(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's file; none if there is no file.

    Raises:
        ConfigurationError: they are not as described above.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        entries = files.parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read ({error}); mend it") from None
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise ConfigurationError(
            f'{path}: found something else than a list of {{"samples": [first, last]}} with whole '
            "numbers, 0 <= first < last; mend it"
        )
    return entries


def _is_entry(entry: Any) -> bool:
    samples = entry.get("samples") if isinstance(entry, dict) else None
    if not isinstance(samples, list) or [type(number) for number in samples] != [int, int]:
        return False
    return 0 <= samples[0] < samples[1]


def roll_back(folder: Path, dry_run: bool = False) -> None:
    """Leave out the samples of the newest divergence and go back to before it; by all ranks.

    Newer checkpoints become a branch. The next start of the run goes on from there by itself.

    Args:
        folder: of the run.
        dry_run: only say what would be done.

    Raises:
        ConfigurationError: nothing has diverged since the last time.
        CheckpointError: there are checkpoints, but none from before the divergence.
    """
    found = distributed.on_rank_0(lambda: _to_leave_out(folder))
    step = found.first_step - 1
    distributed.log(
        f"rollback to step {step} or before; left out: steps {found.first_step} to "
        f"{found.last_step}, samples {found.samples[0]:,} to {found.samples[1] - 1:,} "
        f"({found.reason})"
    )
    if dry_run:
        return
    # In this order: a crash in between leaves a divergence that can be rolled back again.
    branch = set_aside_newer(folder / CHECKPOINTS, step)
    distributed.on_rank_0(lambda: _leave_out(folder, found))
    if branch is not None:
        distributed.log(f"the newer checkpoints are now in {branch}")


def _to_leave_out(folder: Path) -> Diverged:
    done = {tuple(entry["samples"]) for entry in read(folder)}
    found = newest_divergence(folder)
    if found is None or found.samples in done:
        since = " since the last rollback" if done else ""
        raise ConfigurationError(
            f"rollback: nothing has diverged in {folder}{since}; start again without rollback"
        )
    checkpoints = folder / CHECKPOINTS
    before = any(checkpoint.step < found.first_step for checkpoint in list_checkpoints(checkpoints))
    if candidates(checkpoints) and not before:
        raise CheckpointError(
            f"rollback: no checkpoint of {folder} is from before step {found.first_step}; start "
            "anew in another output_dir"
        )
    return found


def _leave_out(folder: Path, found: Diverged) -> None:
    entry = {
        "samples": list(found.samples),
        "steps": [found.first_step, found.last_step],
        "reason": found.reason,
        "capsule": found.capsule,
        "date": now(),
    }
    files.write_text(folder / FILE, files.as_json([*read(folder), entry], indent=1) + "\n")
