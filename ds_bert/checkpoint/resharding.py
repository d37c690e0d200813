"""The state of a run on another number of ranks, or at another ZeRO stage: cut anew.

Masters and moments are vectors as long as all tensors of a parameter group, one after the other.
At stage 1 a rank, and its file, hold one slice of each; at stage 0 a slice for each tensor. What a
rank needs is where its slices and those of the files overlap: the files are mapped, and nothing
else of them is read. The 16-bit weights follow from the masters.

DeepSpeed's universal format gets there through a second copy of the checkpoint, a file for each
tensor, which a command of its own has to make before, loading pickles without restriction.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ds_bert import distributed
from ds_bert.checkpoint.folder import ENGINE, Checkpoint
from ds_bert.checkpoint.shards import (
    INNER,
    MASTERS,
    MODEL_STATES,
    OPTIMIZER,
    check_number,
    optimizer_files,
)
from ds_bert.errors import CheckpointError
from ds_bert.optim.flat_partition import partition_size

_Group = dict[str, Tensor]  # the model's tensors of a parameter group by name, in its order


class Slice(NamedTuple):
    """Consecutive elements of a parameter group, as a rank or a file holds them.

    Attributes:
        group: number of the parameter group.
        start: first element in the concatenation of the group's tensors.
        weights: fp32 masters, in the order of that; what lies behind the group's end is padding.
        state: the optimizer's, by name: moments of as many elements or more, and 0-dim values,
            such as the count of steps, which hold for the whole group.
    """

    group: int
    start: int
    weights: Tensor
    state: dict[str, Tensor]

    def upto(self, size: int) -> int:
        """One behind the last element, in a group of so many."""
        return min(self.start + self.weights.numel(), size)

    def part(self, values: Tensor, begin: int, length: int) -> Tensor:
        """Of weights or moments the elements from `begin` of the group on: a view."""
        return values.view(-1).narrow(0, begin - self.start, length)


def load_resharded(checkpoint: Checkpoint, engine: Any) -> dict[str, Any]:
    """Fill a fresh engine's masters, moments, weights and loss scale; every rank must call.

    Args:
        checkpoint: verified, of the same model, optimizer and precision.
        engine: a freshly initialised DeepSpeed engine.

    Returns:
        the content of the model file, mapped: counters, schedule, what the trainer has put there.

    Raises:
        CheckpointError: a file is missing, or they are not of this model and optimizer.
    """
    folder, wrapper, groups = checkpoint.folder / ENGINE, engine.optimizer, _groups(engine)
    states = _map(folder / MODEL_STATES)
    sizes = [sum(tensor.numel() for tensor in group.values()) for group in groups]
    was_partitioned, is_partitioned = checkpoint.facts["zero_stage"] > 0, engine.zero_optimization()
    inner = wrapper.optimizer if is_partitioned else wrapper
    inner.state.clear()  # moments that are there already would take their room twice
    held = list(_held(inner, is_partitioned))
    if was_partitioned:
        paths = optimizer_files(folder)
        check_number(folder, checkpoint.facts["world_size"], len(paths))
        _check_tensors(folder, states["param_shapes"], groups)
        fill(held, _partitions(paths, sizes, held), sizes)
    else:
        fill(held, _tensors(states, groups), sizes)
    _hand_over(inner, held)
    if was_partitioned and is_partitioned:
        wrapper._load_global_state(_map(paths[0])[OPTIMIZER])  # the loss scale
    if is_partitioned:
        wrapper.update_lp_params()
    return states


def fill(targets: list[Slice], sources: Iterable[Slice], sizes: list[int]) -> None:
    """Copy weights and state from slices that together hold every element once.

    Args:
        targets: weights are written over; `state` is made, of the names that the sources have.
        sources: one of each group at least, whether it overlaps or not: it tells those names.
        sizes: elements of each group.

    Raises:
        CheckpointError: an element is missing or there twice, or 0-dim values contradict.
    """
    copied = 0
    for source in sources:
        for target in targets:
            if source.group == target.group:
                copied += _copy_overlap(source, target, sizes[target.group])
    wanted = sum(max(0, target.upto(sizes[target.group]) - target.start) for target in targets)
    if copied != wanted:
        raise CheckpointError(
            f"the parts of this checkpoint hold {copied:,} of the {wanted:,} weights that a rank "
            "needs; are all of its files of one run? Name another checkpoint"
        )


def _copy_overlap(source: Slice, target: Slice, size: int) -> int:
    """Copy what two slices of a group of `size` have in common; returns how many elements."""
    begin = max(source.start, target.start)
    length = max(0, min(source.upto(size), target.upto(size)) - begin)
    if not length and target.state:
        return 0
    if length:
        target.part(target.weights, begin, length).copy_(source.part(source.weights, begin, length))
    for name, values in source.state.items():
        if values.dim() == 0:
            if not torch.equal(target.state.setdefault(name, values.clone()), values):
                raise CheckpointError(
                    f"{name} of the optimizer differs between tensors, so they cannot be put "
                    "together; go on with as many ranks, and the ZeRO stage, of the checkpoint"
                )
            continue
        if name not in target.state:
            target.state[name] = torch.zeros_like(target.weights, dtype=values.dtype)
        if length:
            found = source.part(values, begin, length)
            target.part(target.state[name], begin, length).copy_(found)
    return length


def _partitions(paths: list[Path], sizes: list[int], wanted: list[Slice]) -> Iterator[Slice]:
    """What the ranks of ZeRO stage 1 held, as far as wanted; the first one's in any case."""
    lengths = [partition_size(size, len(paths)) for size in sizes]
    for rank, path in enumerate(paths):
        if rank > 0 and not any(_overlaps(mine, rank, lengths[mine.group]) for mine in wanted):
            continue
        content = _map(path)[OPTIMIZER]
        for group, length in enumerate(lengths):
            (index,) = content[INNER]["param_groups"][group]["params"]
            state = content[INNER]["state"].get(index, {})  # none before the first update
            weights = content[MASTERS][group].detach().view(-1)
            yield Slice(group, rank * length, weights, state)


def _overlaps(mine: Slice, rank: int, length: int) -> bool:
    """Whether a rank's partition of so many elements holds any of a slice's."""
    return mine.start < (rank + 1) * length and rank * length < mine.start + mine.weights.numel()


def _tensors(states: dict[str, Any], groups: list[_Group]) -> Iterator[Slice]:
    """What every rank of ZeRO stage 0 held: each tensor by itself."""
    optimizer = states["optimizer"]
    for number, group in enumerate(groups):
        start = 0
        for name, index in zip(group, optimizer["param_groups"][number]["params"], strict=True):
            weights = states["module"][name].view(-1)
            yield Slice(number, start, weights, optimizer["state"].get(index, {}))
            start += weights.numel()


def _held(inner: torch.optim.Optimizer, is_partitioned: bool) -> Iterator[Slice]:
    """What this rank holds: its partition of each group, or all of the group's tensors."""
    for number, group in enumerate(inner.param_groups):
        start = distributed.rank() * group["params"][0].numel() if is_partitioned else 0
        for tensor in group["params"]:
            yield Slice(number, start, tensor.detach().view(-1), {})
            start += tensor.numel()


def _hand_over(inner: torch.optim.Optimizer, held: list[Slice]) -> None:
    """Give the optimizer its state, in the shapes of what it holds."""
    tensors = [tensor for group in inner.param_groups for tensor in group["params"]]
    state = {
        index: {
            name: values.view(tensor.shape) if values.dim() else values
            for name, values in mine.state.items()
        }
        for index, (tensor, mine) in enumerate(zip(tensors, held, strict=True))
        if mine.state
    }
    inner.load_state_dict({"state": state, "param_groups": inner.state_dict()["param_groups"]})


def _groups(engine: Any) -> list[_Group]:
    """The model's tensors of each parameter group."""
    wrapper, names = engine.optimizer, {id(p): n for n, p in engine.module.named_parameters()}
    groups = getattr(wrapper, "bit16_groups", None) or getattr(wrapper, "bf16_groups", None)
    groups = groups or [group["params"] for group in wrapper.param_groups]
    return [{names[id(tensor)]: tensor for tensor in group} for group in groups]


def _check_tensors(folder: Path, found: list[dict[str, torch.Size]], groups: list[_Group]) -> None:
    """The order of the tensors is what the slices go by."""
    expected = [[(name, tensor.shape) for name, tensor in group.items()] for group in groups]
    if [list(shapes.items()) for shapes in found] != expected:
        raise CheckpointError(
            f"{folder} has the model's tensors in another order than this run; go on with as many "
            "ranks, and the ZeRO stage, of the checkpoint"
        )


def _map(path: Path) -> Any:
    """A file's content, whose tensors are read when they are copied."""
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except RuntimeError as error:  # no zip file
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be mapped ({reason}); name another checkpoint"
        ) from None
