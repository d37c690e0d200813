"""Why a run has diverged: which steps, which tensors first, which rows."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ds_bert import distributed
from ds_bert.checkpoint.state import set_random_state
from ds_bert.divergence.capsule import MicroBatch
from ds_bert.divergence.detector import Divergence
from ds_bert.divergence.examine import Findings, examine, is_finite
from ds_bert.model.bert import UnpaddedBert

_ROWS_NAMED = 10  # of a micro-batch, those with the largest losses
_NAMES = 10  # of tensors


@dataclass(frozen=True)
class StepSettings:
    """How a run computes the losses and gradients of a step.

    Attributes:
        counts: of the step over all ranks, what losses are divided by.
        scale: what they are multiplied with for the backward pass.
        autocast: whether products are in bf16 and weights in fp32.
    """

    counts: dict[str, int]
    scale: float
    autocast: bool


def bad_steps(found: Divergence, figures: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """First and last bad step, and their samples [first, last).

    Args:
        found: which of the last steps are bad.
        figures: of the last steps, see `StepFigures`.
        size: samples of the last one.
    """
    number = min(found.num_steps or 1, len(figures))
    if found.num_steps is None:
        bad = (not f["skipped"] and not math.isfinite(f["loss"]) for f in figures)
        number = next((len(figures) - n for n, is_bad in enumerate(bad) if is_bad), 1)
    first, last = figures[-number], figures[-1]
    return {
        "first_step": first["step"],
        "last_step": last["step"],
        "samples": [first["first_sample"], last["first_sample"] + size],
    }


def bad_tensors(named: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that hold numbers that are not finite."""
    return [name for name, tensor in named.items() if not is_finite(tensor)]


def diagnose(
    model: UnpaddedBert,
    micro_batches: list[MicroBatch],
    shares: list[float],
    settings: StepSettings,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Run this rank's micro-batches again; what was found in each, as plain values.

    A failure, such as no memory left, ends it without an exception: other ranks wait.

    Args:
        model: of the run.
        micro_batches: of its last step.
        shares: their parts of the loss as the run has computed them.
        settings: of the run.
        device: where the model is.
    """
    reports: list[dict[str, Any]] = []
    try:
        for number, (part, share) in enumerate(zip(micro_batches, shares, strict=True)):
            report = {"rank": distributed.rank(), "micro_batch": number, "share_in_the_run": share}
            reports.append(report | describe(examine_part(model, part, settings, device), part))
    except RuntimeError as error:
        reports.append({"rank": distributed.rank(), "problem": str(error).splitlines()[0]})
    return reports


def examine_part(
    model: UnpaddedBert, part: MicroBatch, settings: StepSettings, device: torch.device
) -> Findings:
    """`examine` from the random state that the run had there."""
    set_random_state(part.random_state)
    batch = part.batch.to(device)
    return examine(model, batch, settings.counts, settings.scale, settings.autocast)


def describe(findings: Findings, part: MicroBatch) -> dict[str, Any]:
    """What was found, as plain values."""
    rows = zip(part.rows.tolist(), part.epochs.tolist(), findings.row_losses, strict=True)
    worst = sorted(rows, key=lambda row: row[2] if math.isfinite(row[2]) else math.inf)[::-1]
    bad = findings.bad_gradients
    return {
        "loss": findings.loss,
        "share": findings.share,
        "first_output_not_finite": findings.first_output,
        "gradients_not_finite": len(bad),
        "first_gradients_not_finite": bad[:_NAMES],
        "rows": len(findings.row_losses),
        "rows_not_finite": sum(not math.isfinite(loss) for loss in findings.row_losses),
        "largest_losses": [
            {"row": row, "epoch": epoch, "loss": loss} for row, epoch, loss in worst[:_ROWS_NAMED]
        ],
    }


def cause(bad_weights: list[str], reports: list[dict[str, Any]], data: str) -> str:
    """What went wrong first, in words; weights, then outputs, then gradients.

    Args:
        bad_weights: names of weights that are not finite.
        reports: of all ranks, see `diagnose`.
        data: name of the data set.
    """
    if bad_weights:
        return f"{len(bad_weights)} weights are not finite, the first {bad_weights[0]}"
    all_rows = all(report.get("rows_not_finite") == report.get("rows") for report in reports)
    for report in reports:
        if module := report.get("first_output_not_finite"):
            where, row = _place(report), report["largest_losses"][0]
            if all_rows:
                where += ", all rows: not the data but the weights are to blame"
            elif report["rows_not_finite"]:
                where += f", row {row['row']:,} of {data} in epoch {row['epoch']}"
            return f"the first output that is not finite is that of {module} ({where})"
    for report in reports:
        if report.get("gradients_not_finite"):
            names = report["first_gradients_not_finite"]
            return (
                f"losses are finite, {report['gradients_not_finite']} gradients are not, such as "
                f"that of {names[0]} ({_place(report)})"
            )
    return "weights, losses and gradients of the last step are finite"


def _place(report: dict[str, Any]) -> str:
    return f"rank {report['rank']}, micro-batch {report['micro_batch']}"
