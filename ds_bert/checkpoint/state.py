"""Saving and loading the state of a run: committed atomically, resumed exactly."""

import io
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils import safe_get_full_fp32_param
from deepspeed.utils.tensor_fragment import fragment_address

from ds_bert import distributed, files
from ds_bert.checkpoint.folder import ENGINE, MODEL, Checkpoint, prune
from ds_bert.errors import CheckpointError, TrainingDiverged

STATE = "ds_bert"  # apart from DeepSpeed's own values, which have names like ours
# Everything in DeepSpeed's files that is not a tensor or a plain container.
SAFE_GLOBALS = [fragment_address, LossScaler, DynamicLossScaler, ZeroStageEnum]


def save_checkpoint(
    folder: Path,
    step: int,
    engine: Any,
    state: dict[str, Any],
    facts: dict[str, Any],
    write_model: Callable[[Path, dict[str, torch.Tensor]], None],
    keep: int,
) -> Path:
    """Write, commit and prune; called by all ranks.

    Args:
        folder: the run's `checkpoints` folder.
        step: optimizer steps done.
        engine: the DeepSpeed engine.
        state: what the trainer needs to go on; plain numbers and strings.
        facts: what a later run is compared with; goes into the files.
        write_model: called on rank 0 with a folder and the full fp32 weights.
        keep: the newest this many checkpoints stay.

    Raises:
        TrainingDiverged: weights are not finite; nothing is written, no older checkpoint goes.
    """
    weights = full_weights(engine.module)
    _check_finite(weights, step)
    temporary, final = folder / f".step_{step}.tmp", folder / f"step_{step}"
    if distributed.rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    distributed.barrier()
    # The key makes the files convertible to DeepSpeed's universal checkpoints.
    universal = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}
    engine.save_checkpoint(
        temporary, tag=ENGINE, client_state={STATE: state} | universal, save_latest=False
    )
    torch.save(_random_state(), temporary / f"random_state_rank_{distributed.rank()}.pt")
    if distributed.rank() == 0:
        for script in temporary.glob("*.py"):  # DeepSpeed's own exporters: ours is `hf/`
            script.unlink()
        write_model(temporary / MODEL, weights)
    distributed.barrier()
    _commit(temporary, final, {**facts, "step": step})
    if distributed.rank() == 0:
        files.write_text(folder / "latest", final.name + "\n")
        prune(folder, keep)
    distributed.barrier()
    return final


def _check_finite(weights: dict[str, torch.Tensor], step: int) -> None:
    """Every rank has all weights, so all of them come to the same answer."""
    bad = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise TrainingDiverged(
            f"step {step}: {len(bad)} of {len(weights)} weights hold numbers that are not finite "
            f"(first: {bad[0]}), so they are not saved; lower the learning rate or lengthen the "
            "warm-up, then start again to go on from the last checkpoint"
        )


def _commit(temporary: Path, final: Path, facts: dict[str, Any]) -> None:
    mine = files.list_files(temporary)[distributed.rank() :: distributed.world_size()]
    sealed = distributed.gather({name: files.seal_file(temporary / name) for name in mine})
    if distributed.rank() == 0:
        entries = {name: entry for part in sealed for name, entry in part.items()}
        files.publish(temporary, final, dict(sorted(entries.items())), facts)


def load_checkpoint(
    checkpoint: Checkpoint, engine: Any, *, only_optimizer: bool = False
) -> dict[str, Any]:
    """Load weights, moments, schedule and random state; returns the trainer's state.

    Args:
        checkpoint: verified, of the same model, optimizer, precision and number of ranks.
        engine: a freshly initialised DeepSpeed engine.
        only_optimizer: take weights and moments, but neither schedule nor random state.

    Raises:
        CheckpointError: DeepSpeed found nothing to load, or a file holds more than data.
    """
    try:
        with _only_safe_loading(), redirect_stdout(io.StringIO()):  # DeepSpeed prints tracing lines
            path, state = engine.load_checkpoint(
                checkpoint.folder, tag=ENGINE, load_lr_scheduler_states=not only_optimizer
            )
        if path is None:
            raise CheckpointError(f"{checkpoint.folder}: DeepSpeed could not load it")
        if not only_optimizer:
            name = f"random_state_rank_{distributed.rank()}.pt"
            _set_random_state(torch.load(checkpoint.folder / name, weights_only=True))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{checkpoint.folder} holds objects that ds_bert never writes, so they were not loaded "
            f"({str(error).splitlines()[0]}); was it made by somebody else? Name another checkpoint"
        ) from None
    return state[STATE]


def full_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The fp32 master weights by parameter name, put together from all ranks (a collective)."""
    weights = {}
    for name, parameter in model.named_parameters():
        full = safe_get_full_fp32_param(parameter)
        weights[name] = parameter.detach() if full is None else full.cpu()
    return weights


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def _only_safe_loading() -> Iterator[None]:
    """Make DeepSpeed's torch.load refuse anything but tensors and the globals listed above."""
    safe, unsafe = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name) for name in (safe, unsafe) if name in os.environ}
    os.environ[safe] = "1"
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            yield
    finally:
        os.environ.pop(safe)
        os.environ.update(before)
