"""The end of a run that has diverged: what is kept of it, and what the user is told."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch

from ds_bert import distributed, files
from ds_bert.checkpoint.folder import CHECKPOINTS, list_checkpoints
from ds_bert.checkpoint.saving import WriteModel
from ds_bert.checkpoint.state import full_weights
from ds_bert.divergence.capsule import MicroBatch, now, write_capsule
from ds_bert.divergence.detector import Divergence, DivergenceDetector, Launched
from ds_bert.divergence.diagnosis import StepSettings, bad_steps, bad_tensors, cause, diagnose
from ds_bert.errors import TrainingDiverged
from ds_bert.model.batch import SEQUENCES
from ds_bert.model.bert import UnpaddedBert
from ds_bert.training.batches import Step
from ds_bert.training.deepspeed_config import (
    activation_dtype,
    has_autocast,
    precision,
    weight_dtype,
)
from ds_bert.training.plan import Plan


def stop_diverged(
    found: Divergence,
    plan: Plan,
    engine: Any,
    step: Step,
    launched: Launched,
    detector: DivergenceDetector,
    write_model: WriteModel,
) -> NoReturn:
    """Find out why, keep a capsule and end the run; called by all ranks.

    Args:
        found: the rule that has ended it.
        plan: of the run.
        engine: the DeepSpeed engine.
        step: this rank's part of the last one whose outcome is known.
        launched: its losses and random states.
        detector: has the figures of the last steps.
        write_model: writes a Hugging Face folder.

    Raises:
        TrainingDiverged: always.
    """
    figures = detector.figures()
    parts = _micro_batches(step, launched)
    settings = _settings(plan, step, figures[-1]["loss_scale"])
    weights = full_weights(engine.module)
    bad_weights = bad_tensors(weights)
    reports = _examine_again(plan, engine.module, parts, launched, settings)
    steps = bad_steps(found, figures, step.counts[SEQUENCES])
    why = cause(bad_weights, reports, plan.config.train_data)
    when = "before" if figures[-1]["skipped"] else "after"
    diagnosis = {
        "reason": found.reason,
        "cause": why,
        **steps,
        "date": now(),
        "weights": {"of": f"{when} step {steps['last_step']}", "not_finite": bad_weights},
        "checkpoint": _last_checkpoint(plan, steps["first_step"]),
        **_facts(plan, settings),
        "fp8": engine.module.fp8 and engine.module.fp8.recipe._asdict(),
        "fp8_scales": None if launched.fp8_scales is None else launched.fp8_scales.tolist(),
        "micro_batches": reports,
        "last_steps": figures,
    }
    capsule = write_capsule(
        Path(plan.config.output_dir),
        diagnosis,
        parts,
        plan.train_table.store.vocabulary,
        None if bad_weights else lambda folder: write_model(folder, weights),
        4 * plan.num_parameters,
    )
    raise TrainingDiverged(_message(found, steps, why, capsule, plan))


def _examine_again(
    plan: Plan,
    model: UnpaddedBert,
    parts: list[MicroBatch],
    launched: Launched,
    settings: StepSettings,
) -> list[dict[str, Any]]:
    """What is found in the micro-batches of all ranks."""
    device = distributed.local_device()
    model.train()
    fp8 = None if model.fp8 is None else model.fp8.recipe
    # Hooks want layers that are neither compiled nor fused.
    model.prepare(device, plan.activation_dtype, False, fp8, fused=False)
    if model.fp8 is not None:
        model.fp8.scales.fix(launched.fp8_scales)
    shares = [loss.item() for loss in launched.losses]
    everyone = distributed.gather(diagnose(model, parts, shares, settings, device))
    return [report for of_rank in everyone for report in of_rank]


def _micro_batches(step: Step, launched: Launched) -> list[MicroBatch]:
    columns = (step.micro_batches, step.rows, step.epochs, launched.random_states)
    return [MicroBatch(*values) for values in zip(*columns, strict=True)]


def _settings(plan: Plan, step: Step, loss_scale: float | None) -> StepSettings:
    config = plan.engine_config
    return StepSettings(
        counts=step.counts,
        scale=plan.batch.world_size * (loss_scale or 1.0),
        autocast=has_autocast(config),
    )


def _last_checkpoint(plan: Plan, first_step: int) -> str | None:
    """The newest one from before a step."""
    known = list_checkpoints(Path(plan.config.output_dir) / CHECKPOINTS)
    return next((str(found.folder) for found in known if found.step < first_step), None)


def _facts(plan: Plan, settings: StepSettings) -> dict[str, Any]:
    return {
        "objective": plan.config.objective,
        "world_size": plan.batch.world_size,
        "precision": precision(plan.engine_config),
        "weight_dtype": weight_dtype(plan.engine_config),
        "activation_dtype": activation_dtype(plan.engine_config),
        "counts": settings.counts,
        "scale": settings.scale,
        "autocast": settings.autocast,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "run": _record(Path(plan.config.output_dir) / "config.json"),
    }


def _record(path: Path) -> Any:
    """The run's own record: configuration, versions, data."""
    with suppress(OSError, ValueError):
        return files.parse_json(path.read_text(encoding="utf-8"))
    return None


def _message(
    found: Divergence, steps: dict[str, Any], why: str, capsule: Path | None, plan: Plan
) -> str:
    first, last = steps["first_step"], steps["last_step"]
    which = f"step {last}" if first == last else f"steps {first} to {last}"
    cure = "lower the learning rate or lengthen the warm-up"
    if precision(plan.engine_config) == "fp16":
        cure += ", or train in bf16, which has the range of fp32"
    kept = "nothing could be kept of it"
    if capsule is not None:
        kept = f"ds-bert replay {capsule} runs it again; --rollback true leaves its samples out"
    return (
        f"{found.reason} ({which}); {why}\n{cure}, then start again to go on from the last "
        f"checkpoint. {kept}"
    )
