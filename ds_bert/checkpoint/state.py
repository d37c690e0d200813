"""Loading the state of a run: weights, moments, schedule, random state."""

import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils import safe_get_full_fp32_param
from deepspeed.utils.tensor_fragment import fragment_address

from ds_bert import distributed
from ds_bert.checkpoint.folder import ENGINE, Checkpoint
from ds_bert.checkpoint.manifest import read_manifest
from ds_bert.checkpoint.resharding import load_resharded
from ds_bert.errors import CheckpointError
from ds_bert.rng.streams import DROPOUT, stream_key

STATE = "ds_bert"  # apart from DeepSpeed's own values, which have names like ours
# Everything in DeepSpeed's files that is not a tensor or a plain container.
SAFE_GLOBALS = [fragment_address, LossScaler, DynamicLossScaler, ZeroStageEnum]


def load_checkpoint(
    checkpoint: Checkpoint, engine: Any, *, only_optimizer: bool = False
) -> dict[str, Any]:
    """Load weights, moments, schedule and random state; returns the trainer's state.

    Args:
        checkpoint: verified, of the same model, optimizer and precision.
        engine: a freshly initialised DeepSpeed engine.
        only_optimizer: take weights and moments, but neither schedule nor random state.

    Raises:
        CheckpointError: DeepSpeed found nothing to load, a file holds more than data, or the
            checkpoint was replaced or removed meanwhile.
    """
    try:
        state = _load(checkpoint, engine, only_optimizer)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{checkpoint.folder} holds objects that ds_bert never writes, so they were not loaded "
            f"({str(error).splitlines()[0]}); was it made by somebody else? Name another checkpoint"
        ) from None
    except Exception:  # of any kind, if it was pruned meanwhile
        _require_unchanged(checkpoint)
        raise
    _require_unchanged(checkpoint)
    return state[STATE]


def _load(checkpoint: Checkpoint, engine: Any, only_optimizer: bool) -> dict[str, Any]:
    same_ranks = checkpoint.facts["world_size"] == distributed.world_size()
    same_stage = checkpoint.facts["zero_stage"] == engine.zero_optimization_stage()
    with only_safe_loading(), redirect_stdout(io.StringIO()):  # DeepSpeed prints tracing lines
        if same_ranks and same_stage:
            state = _load_as_it_is(checkpoint, engine, not only_optimizer)
        else:
            state = load_resharded(checkpoint, engine)
            _restore_counters(engine, state, not only_optimizer)
    if hasattr(engine.optimizer, "clip_grad"):  # DeepSpeed would go on with the checkpoint's
        engine.optimizer.clip_grad = engine.gradient_clipping()
    if not only_optimizer:
        if same_ranks:
            name = random_state_file(distributed.rank())
            set_random_state(torch.load(checkpoint.folder / name, weights_only=True))
        else:
            _restart_random_state(checkpoint)
    return state


def _load_as_it_is(checkpoint: Checkpoint, engine: Any, with_schedule: bool) -> dict[str, Any]:
    path, state = engine.load_checkpoint(
        checkpoint.folder, tag=ENGINE, load_lr_scheduler_states=with_schedule
    )
    if path is None:
        raise CheckpointError(f"{checkpoint.folder}: DeepSpeed could not load it")
    return state


def _restore_counters(engine: Any, state: dict[str, Any], with_schedule: bool) -> None:
    """What `engine.load_checkpoint` takes from the model file, beside the weights."""
    engine.global_steps, engine.skipped_steps = state["global_steps"], state["skipped_steps"]
    engine.global_samples = state["global_samples"]
    if with_schedule:
        engine.lr_scheduler.load_state_dict(state["lr_scheduler"])


def _restart_random_state(checkpoint: Checkpoint) -> None:
    """Streams of their own for other ranks: nothing follows from those of the ranks before."""
    seed, rank = checkpoint.facts["seed"], distributed.rank()
    torch.manual_seed(int(stream_key(seed, DROPOUT, checkpoint.step, rank)))


def _require_unchanged(checkpoint: Checkpoint) -> None:
    """Checkpoints are replaced and removed as whole folders only, so the manifest tells."""
    if read_manifest(checkpoint.folder) != checkpoint.facts:
        raise CheckpointError(
            f"{checkpoint.folder} was removed or replaced while it was read; start again"
        )


def full_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The fp32 master weights by parameter name, put together from all ranks (a collective).

    On the CPU; the next step does not change them.
    """
    weights = {}
    for name, parameter in model.named_parameters():
        full = safe_get_full_fp32_param(parameter)
        weights[name] = parameter.detach().to("cpu", copy=True) if full is None else full.cpu()
    return weights


def random_state_file(rank: int) -> str:
    """Name of the file with a rank's random state."""
    return f"random_state_rank_{rank}.pt"


def random_state() -> dict[str, torch.Tensor]:
    """This rank's generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    """Bring this rank's generators to where `random_state` found them."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def only_safe_loading() -> Iterator[None]:
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
