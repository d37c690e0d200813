"""Checkpoints: committed atomically, verified before loading, resumed exactly.

    checkpoints/latest              the name of the newest one, replaced last
    checkpoints/step_500/           complete or absent
        manifest.json               facts of the run; size and hash of every file
        engine/                     DeepSpeed's state: weights, moments, schedule, loss scale
        random_state_rank_0.pt ...  generators of every rank
        hf/                         the same model as a Hugging Face folder

DeepSpeed alone overwrites in place, trusts `latest`, and starts from step 0 if it is missing.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils import safe_get_full_fp32_param
from deepspeed.utils.tensor_fragment import fragment_address

from ds_bert import distributed, manifest
from ds_bert.errors import CheckpointError

CHECKPOINTS, ENGINE, MODEL = "checkpoints", "engine", "hf"
STATE = "ds_bert"  # apart from DeepSpeed's own values, which have names like ours
# Everything in DeepSpeed's files that is not a tensor or a plain container.
SAFE_GLOBALS = [fragment_address, LossScaler, DynamicLossScaler, ZeroStageEnum]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint folder and the facts in its manifest."""

    folder: Path
    facts: dict[str, Any]

    @property
    def model_folder(self) -> Path:
        """The checkpoint's Hugging Face folder."""
        return self.folder / MODEL


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name; -1 for any other name."""
    name, _, step = folder.name.partition("_")
    return int(step) if name == "step" and step.isdigit() else -1


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Complete checkpoints below a `checkpoints` folder, the newest first."""
    found = [path for path in folder.glob("step_*") if step_of(path) >= 0]
    found.sort(key=step_of, reverse=True)
    pairs = ((path, manifest.read_manifest(path)) for path in found)
    return [Checkpoint(path, facts) for path, facts in pairs if facts is not None]


def find_damage(checkpoint: Checkpoint) -> str | None:
    """Check all files, shared out over the ranks; every rank gets the same answer."""
    files = sorted(checkpoint.facts["files"].items())
    mine = files[distributed.rank() :: distributed.world_size()]
    reports = (manifest.damage(checkpoint.folder, name, entry) for name, entry in mine)
    problem = next((report for report in reports if report), None)
    everyone = _gather(problem)
    return next((report for report in everyone if report), None)


def newest_good(folder: Path, set_aside: bool = False) -> Checkpoint | None:
    """The newest undamaged checkpoint below a `checkpoints` folder, or None.

    With `set_aside` damaged ones become `step_N.corrupt`, so that the run can write them again.
    """
    for checkpoint in distributed.from_rank_0(list_checkpoints(folder)):
        problem = find_damage(checkpoint)
        if problem is None:
            return checkpoint
        distributed.log(f"warning: {checkpoint.folder}: {problem}; going back to an older one")
        if set_aside and distributed.rank() == 0:
            aside = checkpoint.folder.with_name(f"{checkpoint.folder.name}.corrupt")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(checkpoint.folder, aside)
        distributed.barrier()
    return None


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint that a user named: a run folder, its `checkpoints`, or a step folder.

    Raises:
        CheckpointError: nothing there, or nothing undamaged.
    """
    path = Path(path)
    if step_of(path) >= 0:
        facts = manifest.read_manifest(path)
        if facts is None:
            raise CheckpointError(f"{path}: not a complete checkpoint (no readable manifest)")
        checkpoint = Checkpoint(path, facts)
        if problem := find_damage(checkpoint):
            raise CheckpointError(f"{path}: {problem}; name another checkpoint")
        return checkpoint
    folder = path if path.name == CHECKPOINTS else path / CHECKPOINTS
    newest = newest_good(folder)
    if newest is None:
        raise CheckpointError(f"{path}: no complete checkpoint found; check the path")
    return newest


def find_model(path: str) -> tuple[str, Checkpoint | None]:
    """The Hugging Face folder behind a run or a checkpoint; any other name is that of a model.

    Returns:
        folder or hub id, and the checkpoint that the folder belongs to, already verified.

    Raises:
        CheckpointError: a run or checkpoint without anything undamaged.
    """
    folder = Path(path)
    if folder.name == CHECKPOINTS or (folder / CHECKPOINTS).is_dir() or step_of(folder) >= 0:
        checkpoint = open_checkpoint(folder)
        return str(checkpoint.model_folder), checkpoint
    return path, None


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
        facts: what a later run is compared with; goes into the manifest.
        write_model: called on rank 0 with a folder and the full fp32 weights.
        keep: the newest this many checkpoints stay.
    """
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
    weights = full_weights(engine.module)
    if distributed.rank() == 0:
        for script in temporary.glob("*.py"):  # DeepSpeed's own exporters: ours is `hf/`
            script.unlink()
        write_model(temporary / MODEL, weights)
    distributed.barrier()
    _commit(temporary, final, {**facts, "step": step})
    if distributed.rank() == 0:
        manifest.write_text(folder / "latest", final.name + "\n")
        prune(folder, keep)
    distributed.barrier()
    return final


def _commit(temporary: Path, final: Path, facts: dict[str, Any]) -> None:
    mine = manifest.list_files(temporary)[distributed.rank() :: distributed.world_size()]
    sealed = _gather({name: manifest.seal_file(temporary / name) for name in mine})
    if distributed.rank() == 0:
        files = {name: entry for part in sealed for name, entry in part.items()}
        manifest.publish(temporary, final, dict(sorted(files.items())), facts)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` complete checkpoints, and what crashes left behind."""
    for checkpoint in list_checkpoints(folder)[keep:]:
        manifest.discard(checkpoint.folder)
    for leftover in (*folder.glob(".step_*.tmp"), *folder.glob(".step_*.deleting")):
        shutil.rmtree(leftover, ignore_errors=True)


def load_checkpoint(
    checkpoint: Checkpoint, engine: Any, *, only_optimizer: bool = False
) -> dict[str, Any]:
    """Load weights, moments, schedule and random state; returns the trainer's state.

    Args:
        checkpoint: verified, of the same model, optimizer, precision and number of ranks.
        engine: a freshly initialised DeepSpeed engine.
        only_optimizer: take weights and moments, but neither schedule nor random state.

    Raises:
        CheckpointError: DeepSpeed found nothing to load.
    """
    with _only_safe_loading(), redirect_stdout(io.StringIO()):  # DeepSpeed prints tracing lines
        path, state = engine.load_checkpoint(
            checkpoint.folder, tag=ENGINE, load_lr_scheduler_states=not only_optimizer
        )
    if path is None:
        raise CheckpointError(f"{checkpoint.folder}: DeepSpeed could not load it")
    if not only_optimizer:
        name = f"random_state_rank_{distributed.rank()}.pt"
        _set_random_state(torch.load(checkpoint.folder / name, weights_only=True))
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
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _gather(value: Any) -> list[Any]:
    if not distributed.is_distributed():
        return [value]
    everyone: list[Any] = [None] * distributed.world_size()
    dist.all_gather_object(everyone, value)
    return everyone
