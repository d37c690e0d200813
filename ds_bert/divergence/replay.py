"""A capsule run again: forward and backward passes of its micro-batches in one process."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ds_bert import distributed
from ds_bert.divergence.capsule import (
    MODEL,
    VOCABULARY,
    WEIGHTS,
    MicroBatch,
    read_diagnosis,
    read_micro_batches,
)
from ds_bert.divergence.diagnosis import StepSettings, describe, examine_part
from ds_bert.errors import CheckpointError, require
from ds_bert.fp8.recipe import Fp8Recipe
from ds_bert.instances.collate import BatchArrays
from ds_bert.instances.examples import as_text, split
from ds_bert.model.bert import OBJECTIVES, UnpaddedBert
from ds_bert.model.pretrained import load_model
from ds_bert.tokenizer.vocabulary import Vocabulary


def replay(
    capsule: str,
    model_folder: str | None = None,
    ranks: list[int] | None = None,
    num_rows: int = 3,
    cpu: bool = False,
) -> Iterator[str]:
    """Run a capsule's micro-batches again, from the random states that the run had.

    Args:
        capsule: its folder.
        model_folder: Hugging Face folder of other weights; None: the capsule's.
        ranks: whose micro-batches; None: those of all.
        num_rows: so many rows of each micro-batch are shown, those with the largest losses.
        cpu: do not use a GPU. What dropout takes differs between CPU and GPU.

    Yields:
        what is found, line by line.

    Raises:
        CheckpointError: no capsule, or it has no weights.
        ConfigurationError: there is no such rank.
    """
    folder = Path(capsule)
    found = read_diagnosis(folder)
    everyone = range(found["world_size"])
    ranks = list(everyone) if ranks is None else ranks
    for rank in ranks:
        require(rank in everyone, "rank", rank, f"one of 0 to {found['world_size'] - 1}")
    yield from _head(found)
    device = distributed.setup()
    device = torch.device("cpu") if cpu else device
    model = _load(model_folder or _weights(folder, found), found, device)
    names = Vocabulary.read(folder / VOCABULARY).tokens
    settings = StepSettings(found["counts"], found["scale"], found["autocast"])
    in_the_run = {(r["rank"], r.get("micro_batch")): r for r in found["micro_batches"]}
    total: dict[str, Tensor] = {}
    for rank in ranks:
        for number, part in enumerate(read_micro_batches(folder, rank)):
            findings = examine_part(model, part, settings, device)
            before = in_the_run.get((rank, number), {}).get("share_in_the_run")
            yield f"rank {rank}, micro-batch {number}: {_summary(describe(findings, part), before)}"
            yield from _rows(part, findings.row_losses, names, found["objective"], num_rows)
            for name, gradient in findings.gradients.items():
                total[name] = total.get(name, 0) + gradient.float() / settings.scale
    yield "gradient norms, before clipping:"
    yield from (f"  {name:64} {gradient.norm().item():.4g}" for name, gradient in total.items())


def _head(found: dict[str, Any]) -> Iterator[str]:
    steps = f"steps {found['first_step']} to {found['last_step']}"
    yield f"{found['reason']} ({steps}); {found['cause']}"
    yield (
        f"{found['precision']}, {found['world_size']} ranks on {found['device']}, weights of "
        f"{found['weights']['of']}, last checkpoint from before: {found['checkpoint'] or 'none'}"
    )


def _weights(folder: Path, found: dict[str, Any]) -> str:
    if not (folder / MODEL / WEIGHTS).is_file():
        why = "they are not finite" if found["weights"]["not_finite"] else "the disk was full"
        raise CheckpointError(
            f"{folder} has no weights ({why}); name others with --model, such as "
            f"{found['checkpoint'] or 'runs/NAME/checkpoints/step_N'}/hf"
        )
    return str(folder / MODEL)


def _load(name: str, found: dict[str, Any], device: torch.device) -> UnpaddedBert:
    """The model as the run had it."""
    model, _ = load_model(name, OBJECTIVES[found["objective"]])
    model.to(device, getattr(torch, found["weight_dtype"])).train()
    fp8 = Fp8Recipe.read(found["fp8"])
    dtype = getattr(torch, found["activation_dtype"])
    model.prepare(device, dtype, False, fp8, fused=False)
    if model.fp8 is not None and found.get("fp8_scales") is not None:
        model.fp8.scales.fix(torch.tensor(found["fp8_scales"]))
    return model


def _summary(report: dict[str, Any], in_the_run: float | None) -> str:
    before = math.nan if in_the_run is None else in_the_run
    shares = f"share of the step's loss {report['share']:.8g}, in the run {before:.8g}"
    module = report["first_output_not_finite"]
    outputs = f"the first output that is not finite is that of {module}" if module else "all finite"
    gradients = report["gradients_not_finite"]
    bad = f"; gradients that are not finite: {gradients}" if gradients else ""
    return f"loss {report['loss']:.6g}; {shares}; {outputs}{bad}"


def _rows(
    part: MicroBatch, losses: list[float], names: tuple[str, ...], objective: str, number: int
) -> Iterator[str]:
    """The rows with the largest losses, in words."""
    arrays = BatchArrays(*(getattr(part.batch, name).numpy() for name in BatchArrays._fields))
    shown = list(split(arrays, names))
    for index in _largest(losses)[:number]:
        row, epoch = part.rows[index], part.epochs[index]
        text = as_text(shown[index], OBJECTIVES[objective].instances)
        yield f"  row {row:,} in epoch {epoch}, loss {losses[index]:.6g}: {text}"


def _largest(losses: Iterable[float]) -> list[int]:
    keys = [loss if math.isfinite(loss) else math.inf for loss in losses]
    return sorted(range(len(keys)), key=lambda index: -keys[index])
