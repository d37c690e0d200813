"""What a run tells: a line of log, a row of metrics.jsonl, a progress bar on a terminal."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ds_bert import distributed, files
from ds_bert.errors import TrainingDiverged
from ds_bert.evaluation.metrics import loss_names
from ds_bert.model.batch import Batch
from ds_bert.model.flops import peak_flops
from ds_bert.progress import Progress
from ds_bert.run_report.background import ReportWriter

_CORPORA_IN_A_LINE = 8
_PAUSES = ("validation_seconds", "save_seconds")


class RunLog:
    """Counts what is done, measures rates (pauses taken out) and writes rows on rank 0.

    Args:
        folder: the run's folder; rows go to its metrics.jsonl.
        step: optimizer steps already done; rows of later steps, left by a crash, are removed.
        max_steps: optimizer steps in all.
        device: of this rank; its memory and share of its peak are told.
        flops: operations that a batch takes.
        report_seconds: between two reports of the run; 0: none.
        work: what so many steps take, in any unit; None: each the same.

    Attributes:
        listeners: called on rank 0 with kind, step and values of each row.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        max_steps: int,
        device: torch.device,
        flops: Callable[[Batch], int],
        report_seconds: float = 0.0,
        work: Callable[[int], int] | None = None,
    ):
        self._work = work or (lambda steps: steps)
        self._path = folder / "metrics.jsonl"
        self._step, self._max_steps = step, max_steps
        self._device, self._flops_of, self._peak = device, flops, peak_flops(device)
        self._bar: Progress | None = None
        self._unwritten: list[str] = []  # rows that a full disk did not take
        self.listeners: list[Callable[[str, int, dict[str, Any]], None]] = []
        self._forget()
        self._since = time.monotonic()
        self._start, self._first_step = self._since, step
        self._started, self._pauses = time.time(), dict.fromkeys(_PAUSES, 0.0)
        is_told = distributed.rank() == 0 and report_seconds > 0
        self._report = ReportWriter(folder, report_seconds) if is_told else None
        if distributed.rank() == 0:
            _drop_rows_after(self._path, step)

    def __enter__(self) -> "RunLog":
        self._since = self._start = time.monotonic()
        if distributed.rank() == 0 and sys.stderr.isatty():
            self._bar = Progress("training", self._step / self._max_steps, lines=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._report is not None:
            is_over = self._step >= self._max_steps or kind is TrainingDiverged
            page = self._report.close(is_over)
            if page is not None:
                distributed.log(f"report: {page}")

    def count(self, batch: Batch) -> None:
        """Count a micro-batch of this rank (tokens without padding)."""
        self._sequences += batch.num_sequences
        self._tokens += batch.num_tokens
        self._flops += self._flops_of(batch)

    def advance(self) -> None:
        """Count an optimizer step."""
        self._step += 1
        self._steps += 1
        if self._bar is not None:
            self._bar.update(self._step / self._max_steps, steps=1)

    @contextmanager
    def paused(self, what: str = "") -> Iterator[None]:
        """Time spent inside counts for no rate and no ETA; `what` is validation or save."""
        start = time.monotonic()
        yield
        spent = time.monotonic() - start
        self._since += spent
        self._start += spent
        if what:
            self._pauses[f"{what}_seconds"] += spent

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside is waited for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def log_training(self, metrics: dict[str, Any]) -> None:
        """Print and record a training row with the rates since the last one."""
        now = time.monotonic()
        row = metrics | self._rates(max(now - self._since, 1e-9)) | _memory(self._device)
        first, done, all_of_it = map(self._work, (self._first_step, self._step, self._max_steps))
        eta = (now - self._start) / max(done - first, 1) * (all_of_it - done)
        self._forget()
        self._since = now
        if self._bar is not None:
            self._bar.tell(f"loss {row['loss']:.4f}")
        distributed.log(_training_line(self._step, self._max_steps, row, eta))
        self._write("train", row)

    def _rates(self, seconds: float) -> dict[str, float | None]:
        world = distributed.world_size()
        return {
            "sequences_per_second": self._sequences * world / seconds,
            "tokens_per_second": self._tokens * world / seconds,
            "seconds_per_step": seconds / max(self._steps, 1),
            "interval_seconds": seconds,
            "flops_per_second": self._flops * world / seconds,
            "mfu": self._flops / seconds / self._peak if self._peak else None,
            "data_wait_share": self._waited / seconds,
        }

    def _forget(self) -> None:
        self._sequences = self._tokens = self._steps = self._flops = 0
        self._waited = 0.0

    def log_validation(self, metrics: dict[str, Any]) -> None:
        """Print and record a validation row."""
        distributed.log(
            f"step {self._step:,} validation: {_means(metrics)} "
            f"({metrics['num_sequences']:,} sequences, {metrics['masked_share']:.1%} masked)"
            + _of_corpora(metrics)
        )
        self._write("validation", metrics)

    def _write(self, kind: str, row: dict[str, Any]) -> None:
        if distributed.rank() != 0:
            return
        place = {"kind": kind, "step": self._step, "time": time.time(), "started": self._started}
        self._unwritten.append(files.as_json(place | row | self._pauses) + "\n")
        self._pauses = dict.fromkeys(_PAUSES, 0.0)
        try:
            _append(self._path, "".join(self._unwritten))
            self._unwritten.clear()
        except OSError as error:  # a log is not worth a run
            distributed.log(
                f"warning: {self._path} cannot be written ({error.strerror}); training goes on, "
                "the rows follow when it can"
            )
        if self._report is not None:
            self._report.update()
        for listener in self.listeners:
            listener(kind, self._step, row)


def _training_line(step: int, max_steps: int, row: dict[str, Any], eta: float) -> str:
    norm, skipped, names = row["gradient_norm"], row["skipped_steps"], loss_names(row)
    losses = " ".join(f"{name} {row[f'{name}_loss']:.4f}" for name in names)
    accuracies = " ".join(f"{name}_acc {row[f'{name}_accuracy']:.3f}" for name in names)
    return (
        f"step {step:,}/{max_steps:,} loss {row['loss']:.4f} {losses} {accuracies} "
        f"masked {row['masked_share']:.1%} lr {row['learning_rate']:.2e} "
        + (f"gnorm {norm:.2f} " if norm is not None else "")
        + (f"skipped {skipped} " if skipped else "")
        + f"{row['sequences_per_second']:,.0f} seq/s {row['tokens_per_second']:,.0f} tok/s "
        + (f"MFU {row['mfu']:.1%} " if row["mfu"] is not None else "")
        + f"memory {row['memory_bytes'] / 1e9:.1f} GB data wait {row['data_wait_share']:.1%} "
        f"ETA {duration(eta)}"
    )


def _memory(device: torch.device) -> dict[str, int]:
    """On a GPU the most since the last call, reserved and allocated; on a CPU what is resident."""
    if device.type == "cuda":
        reserved = torch.cuda.max_memory_reserved(device)
        allocated = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return {"memory_bytes": reserved, "memory_allocated_bytes": allocated}
    import psutil

    return {"memory_bytes": psutil.Process().memory_info().rss}


def _means(metrics: dict[str, Any]) -> str:
    """Losses, perplexity and accuracies, by their names."""
    digits = {"perplexity": 2}
    means = [name for name in metrics if name.endswith(("_loss", "perplexity", "_accuracy"))]
    return " ".join(f"{name} {metrics[name]:.{digits.get(name, 4)}f}" for name in means)


def _of_corpora(metrics: dict[str, Any]) -> str:
    """The masked-LM loss of each corpus, where there are few enough for a line."""
    losses = {name: value for name, value in metrics.items() if name.startswith("mlm_loss_")}
    if not 0 < len(losses) <= _CORPORA_IN_A_LINE:
        return ""
    parts = (f"{name.removeprefix('mlm_loss_')} {value:.4f}" for name, value in losses.items())
    return f"; mlm_loss of {', '.join(parts)}"


def duration(seconds: float) -> str:
    """Seconds as 1d02h, 3h04m, 5m06s or 7s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _append(path: Path, text: str) -> None:
    """Append all of a text or, where that fails, nothing."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        with suppress(OSError):
            os.truncate(path, size)
        raise


def _drop_rows_after(path: Path, step: int) -> None:
    """Remove rows that a crash left behind the checkpoint, and a last row cut in half."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().decode("utf-8", "replace").split("\n"):
        try:
            if files.parse_json(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    files.write_text(path, "".join(kept))
