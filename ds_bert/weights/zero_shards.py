"""DeepSpeed's checkpoints: fp32 weights, or their average, put together from all ranks' shards.

    mp_rank_00_model_states.pt                  module: the weights in the precision of training
    zero_pp_rank_N_mp_rank_00_optim_states.pt   rank N's part of the fp32 weights and moments (ZeRO)

The parts of stage 1 and 2, one after the other, are all weights of a parameter group in the order
of `param_shapes`, with padding at the end. Stage 3 cuts each weight into equal parts.

Source: deepspeed, utils/zero_to_fp32.py (which loads pickles without restriction).
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ds_bert.checkpoint.folder import ENGINE, Checkpoint
from ds_bert.checkpoint.shards import (
    INNER,
    MASTERS,
    MODEL_STATES,
    OPTIMIZER,
    check_number,
    is_shard,
    optimizer_files,
)
from ds_bert.errors import CheckpointError
from ds_bert.model.bert import OBJECTIVES
from ds_bert.model.pretrained import read_config_file
from ds_bert.optim.average import AVERAGE
from ds_bert.optim.optimizers import parameter_groups
from ds_bert.weights.torch_files import load_torch

STATES = "*model_states.pt"
_MODEL_OF_STAGE_3 = "zero_pp_rank_0_mp_rank_00_model_states.pt"
_MASTERS_OF_STAGE_3 = "fp32_flat_groups"


def find_shards(path: Path) -> Path | None:
    """The folder with DeepSpeed's files that a user named: it, one of its files, or its parent."""
    if path.is_file():
        return path.parent if path.match(STATES) or is_shard(path) else None
    latest = path / "latest"  # names the folder of the newest checkpoint
    folders = [path]
    if latest.is_file():
        folders.append(path / latest.read_text(encoding="utf-8", errors="replace").strip())
    return next((folder for folder in folders if any(folder.glob(STATES))), None)


def read_shards(folder: Path) -> tuple[dict[str, Tensor], str]:
    """The weights of a checkpoint by the names of the model that was trained, and its kind.

    Raises:
        CheckpointError: a file is missing, damaged or holds more than data; parts do not fit.
    """
    states = _load_states(folder)
    module = {name: value for name, value in states["module"].items() if value is not None}
    shards = optimizer_files(folder)
    shapes = states.get("param_shapes")
    if not shards or not shapes:
        kind = "without ZeRO" if not shards else "of an early version, weights as in training"
        return module, f"DeepSpeed checkpoint ({kind})"
    optimizers = [_optimizer_state(path) for path in shards]
    is_stage_3 = _MASTERS_OF_STAGE_3 in optimizers[0]
    check_number(folder, optimizers[0].get("partition_count"), len(shards))
    groups = [shapes] if isinstance(shapes, dict) else shapes
    try:
        if is_stage_3:
            masters = _join_parts(groups, [parts[_MASTERS_OF_STAGE_3] for parts in optimizers])
        else:
            paddings = optimizers[0].get("param_alignment_paddings")
            masters = _join_groups(groups, [parts[MASTERS] for parts in optimizers], paddings)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: the parts of its {len(shards)} ranks do not fit together ({error}); are "
            "all files of one checkpoint?"
        ) from None
    stage = "3" if is_stage_3 else "1 or 2"
    frozen = states.get("frozen_param_fragments") or {}
    if is_stage_3:
        module, frozen = {}, {}  # placeholders
    kind = f"DeepSpeed checkpoint (ZeRO {stage}, {len(shards)} ranks, fp32 weights)"
    return module | frozen | masters, kind


def read_average(path: str, checkpoint: Checkpoint | None) -> dict[str, Tensor]:
    """The moving average of a run's weights, fp32 by name.

    Args:
        path: what the user has named.
        checkpoint: of ds_bert, verified, that was found there; None: something else was.

    Raises:
        CheckpointError: there is none.
    """
    if checkpoint is None:
        raise CheckpointError(
            f"{path}: found a model, expected a run or a checkpoint, which may hold an average of "
            "the weights; leave --weights out"
        )
    folder = checkpoint.folder / ENGINE
    states, shards = _load_states(folder), optimizer_files(folder)
    try:
        if not shards:
            return _averages_of_stage_0(states, checkpoint)
        parts = [_averages(_optimizer_state(path)[INNER]) for path in shards]
    except KeyError:
        raise CheckpointError(
            f"{checkpoint.folder}: found no moving average of the weights, expected a checkpoint "
            "of a run with ema_decay; name another one, or leave --weights out"
        ) from None
    return _join_groups(states["param_shapes"], parts, None)


def _averages(optimizer: dict[str, Any]) -> list[Tensor]:
    """Of each tensor, or partition of a parameter group, that an optimizer holds."""
    held = [index for group in optimizer["param_groups"] for index in group["params"]]
    return [optimizer["state"][index][AVERAGE] for index in held]


def _averages_of_stage_0(states: dict[str, Any], checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The optimizer holds the model's tensors, whose names follow from how it was built."""
    config = read_config_file(checkpoint.model_folder / "config.json")
    with torch.device("meta"):
        model = OBJECTIVES[checkpoint.facts["objective"]](config)
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    groups = parameter_groups(model, 0.0)
    held = [names[id(tensor)] for group in groups for tensor in group["params"]]
    return dict(zip(held, _averages(states["optimizer"]), strict=True))


def _load_states(folder: Path) -> dict[str, Any]:
    names = (MODEL_STATES, _MODEL_OF_STAGE_3)
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(
            f"{folder} has no {MODEL_STATES}; copy it again, with all of its files"
        )
    if any(folder.glob("*mp_rank_01_*")):
        raise CheckpointError(f"{folder} is of a model-parallel run, which is not read")
    states = load_torch(path)
    if not isinstance(states, dict) or not isinstance(states.get("module"), dict):
        raise CheckpointError(f"{path} holds no weights, expected a checkpoint of DeepSpeed")
    return states


def _optimizer_state(path: Path) -> dict[str, Any]:
    content = load_torch(path)
    state = content.get(OPTIMIZER) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no optimizer, expected one of DeepSpeed's shards")
    return state


def _join_groups(groups: list, parts: list[list[Tensor]], paddings: Any) -> dict[str, Tensor]:
    """Stages 1 and 2.

    Args:
        groups: for each parameter group the shapes by name, in order.
        parts: for each rank one flat fp32 tensor per group.
        paddings: for each group the elements to leave out after each weight; None: none.
    """
    masters = {}
    for number, shapes in enumerate(groups):
        flat = torch.cat([part[number].flatten() for part in parts])
        skips = paddings[number] if paddings else [0] * len(shapes)
        offset = 0
        for (name, shape), skip in zip(shapes.items(), skips, strict=True):
            masters[name] = flat.narrow(0, offset, math.prod(shape)).view(tuple(shape))
            offset += math.prod(shape) + skip
    return masters


def _join_parts(groups: list, parts: list[list[Tensor]]) -> dict[str, Tensor]:
    """Stage 3: as `_join_groups`, but each rank has its part of each weight."""
    flats = [torch.cat([part.flatten() for part in mine]) for mine in parts]
    masters, offset = {}, 0
    for name, shape in (item for shapes in groups for item in shapes.items()):
        count = math.prod(shape)
        size = -(-count // len(flats))
        whole = torch.cat([flat.narrow(0, offset, size) for flat in flats])
        masters[name] = whole[:count].view(tuple(shape))
        offset += size
    return masters
