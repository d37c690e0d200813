"""A capsule: what is needed to run the last step of a diverged run again, in one folder.

    diverged/step_24/               appears whole or not at all
        diagnosis.json              what was found, and the figures of the last steps
        vocab.txt                   the data set's
        rank_0.safetensors ...      micro-batches, rows and random states of every rank
        model/                      Hugging Face folder of the weights, unless they are not finite

No text is in it but the vocabulary, and nothing that could run code.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ds_bert import distributed, files
from ds_bert.errors import CheckpointError
from ds_bert.model.batch import NO_LABEL, Batch
from ds_bert.tokenizer.vocabulary import Vocabulary

DIVERGED, DIAGNOSIS, VOCABULARY = "diverged", "diagnosis.json", "vocab.txt"
MODEL, WEIGHTS = "model", "model.safetensors"
_NUMBERS = ("sequence_lengths", "num_spare", "longest")  # of a batch; they follow from its tensors
_TENSORS = tuple(field.name for field in fields(Batch) if field.name not in _NUMBERS)
_STATE = "random_state."


@dataclass(frozen=True)
class MicroBatch:
    """What a rank worked on.

    Attributes:
        batch: on the CPU.
        rows: int64 [B], rows of the table.
        epochs: int64 [B], those that the masks were made for.
        random_state: the rank's generators before it, see `checkpoint.state.random_state`.
    """

    batch: Batch
    rows: NDArray[np.int64]
    epochs: NDArray[np.int64]
    random_state: dict[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name."""
        named = {name: getattr(self.batch, name) for name in _TENSORS}
        named |= {"rows": torch.from_numpy(self.rows), "epochs": torch.from_numpy(self.epochs)}
        return named | {_STATE + name: state for name, state in self.random_state.items()}

    @classmethod
    def of_tensors(cls, named: dict[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        num_rows = len(named["rows"])
        lengths = named["cu_seqlens"][: num_rows + 1].diff().tolist()
        batch = Batch(
            **{name: named[name] for name in _TENSORS},
            sequence_lengths=lengths,
            num_spare=int((named["masked_lm_labels"] == NO_LABEL).sum()),
            longest=int(named["cu_seqlens"].diff().max()),
        )
        states = {n.removeprefix(_STATE): t for n, t in named.items() if n.startswith(_STATE)}
        return cls(batch, named["rows"].numpy(), named["epochs"].numpy(), states)


class Diverged(NamedTuple):
    """The steps that a capsule is about.

    Attributes:
        reason: in words.
        first_step: the first bad one, counted from 1.
        last_step: the last one, whose micro-batches are in the capsule.
        samples: [first, last) of all of them.
        capsule: name of the folder.
    """

    reason: str
    first_step: int
    last_step: int
    samples: tuple[int, int]
    capsule: str


def write_capsule(
    output_dir: Path,
    diagnosis: dict[str, Any],
    micro_batches: list[MicroBatch],
    vocabulary: Vocabulary,
    write_model: Callable[[Path], None] | None,
    model_bytes: int,
) -> Path | None:
    """Write the capsule of a step; called by all ranks. What a disk refuses is told, and left out.

    Args:
        output_dir: of the run.
        diagnosis: plain values; of rank 0, with the fields of `Diverged` but the name.
        micro_batches: of this rank.
        vocabulary: the data set's.
        write_model: writes a Hugging Face folder on rank 0; None: there are no weights to keep.
        model_bytes: its size. It is left out where the disk would be half full of it.

    Returns:
        the folder; None if nothing could be kept.
    """
    folder = output_dir / DIVERGED
    try:
        temporary = distributed.on_rank_0(lambda: _new_folder(folder, diagnosis["last_step"]))
    except OSError as error:
        distributed.log(f"warning: {folder}: nothing could be kept ({error.strerror})")
        return None
    problem = _attempt(lambda: _write_rank(temporary, micro_batches))
    if distributed.rank() == 0 and write_model is not None:
        problem = _attempt(lambda: _write_weights(temporary, write_model, model_bytes)) or problem
    problems = list(filter(None, distributed.gather(problem)))
    for text in problems:
        distributed.log(f"warning: {folder}: a part could not be kept ({text})")
    try:
        record = {**diagnosis, "not_kept": problems}
        return distributed.on_rank_0(lambda: _finish(temporary, record, vocabulary))
    except OSError as error:
        distributed.log(f"warning: {folder}: nothing could be kept ({error.strerror})")
        return None


def _new_folder(folder: Path, step: int) -> Path:
    temporary = folder / f".step_{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def _attempt(write: Callable[[], None]) -> str | None:
    """Write; what went wrong instead of an exception, which would leave other ranks waiting."""
    try:
        write()
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        return f"{distributed.name()}: {reason}"
    return None


def _write_rank(folder: Path, micro_batches: list[MicroBatch]) -> None:
    parts = enumerate(part.tensors() for part in micro_batches)
    tensors = {f"{k}.{name}": value.clone() for k, part in parts for name, value in part.items()}
    path = folder / f"rank_{distributed.rank()}.safetensors"
    try:
        save_file(tensors, path)
    except (OSError, SafetensorError):
        path.unlink(missing_ok=True)
        raise


def _write_weights(folder: Path, write_model: Callable[[Path], None], num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < 2 * num_bytes:
        raise OSError(0, f"weights of {num_bytes / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")
    try:
        write_model(folder / MODEL)
    except (OSError, SafetensorError):
        with suppress(OSError):
            (folder / MODEL / WEIGHTS).unlink(missing_ok=True)
        raise


def _finish(temporary: Path, diagnosis: dict[str, Any], vocabulary: Vocabulary) -> Path:
    final, old = _name(temporary.parent, diagnosis)
    record = {"capsule": final.name, **diagnosis}
    try:
        vocabulary.save(temporary / VOCABULARY)
        files.write_text(temporary / DIAGNOSIS, files.as_json(record, indent=1) + "\n")
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
    os.rename(temporary, final)
    files.sync_folder(final.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _name(folder: Path, diagnosis: dict[str, Any]) -> tuple[Path, Path | None]:
    """Where a capsule goes, and where one of the same samples goes that is there already.

    A run that is started again and diverges again at the same place would otherwise fill the disk.
    """
    base = f"step_{diagnosis['last_step']}"
    for number in range(1, 1_000_000):
        final = folder / (base if number == 1 else f"{base}.{number}")
        if not final.exists():
            return final, None
        found = _read(final)
        if found is not None and found["samples"] == list(diagnosis["samples"]):
            return final, final.with_name(f".{final.name}.old")
    raise AssertionError("unreachable")


def read_diagnosis(folder: Path) -> dict[str, Any]:
    """What was found.

    Raises:
        CheckpointError: this is no capsule.
    """
    found = _read(folder)
    if found is None:
        raise CheckpointError(
            f"{folder} is no capsule (no readable {DIAGNOSIS}); expected a folder such as "
            f"runs/NAME/{DIVERGED}/step_24"
        )
    return found


def read_micro_batches(folder: Path, rank: int) -> list[MicroBatch]:
    """What a rank worked on.

    Raises:
        CheckpointError: the file is not there or not whole.
    """
    path = folder / f"rank_{rank}.safetensors"
    try:
        tensors = load_file(path)
        parts: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            number, _, name = key.partition(".")
            parts.setdefault(int(number), {})[name] = tensor
        return [MicroBatch.of_tensors(parts[number]) for number in sorted(parts)]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); see not_kept in {DIAGNOSIS}"
        ) from None


def newest_divergence(output_dir: Path) -> Diverged | None:
    """The steps of a run's newest capsule, if there is one."""
    found = [_read(folder) for folder in (output_dir / DIVERGED).glob("step_*")]
    newest = max(filter(None, found), key=lambda diagnosis: diagnosis["date"], default=None)
    if newest is None:
        return None
    samples = (newest["samples"][0], newest["samples"][1])
    steps = (newest["first_step"], newest["last_step"])
    return Diverged(newest["reason"], *steps, samples, newest["capsule"])


def now() -> str:
    """The date and time, in a form that sorts."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        found = files.parse_json((folder / DIAGNOSIS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(found, dict) and {"date", "samples", "first_step", "last_step"} <= set(found)
    return found if known else None
