"""Where the tensors of a model lie in the flat partition that ZeRO hands to an optimizer.

DeepSpeed's stages 1 and 2 and its BF16_Optimizer concatenate the trainable tensors of a parameter
group, pad the end with zeros and give each rank one of equal contiguous partitions, so a tensor may
be cut anywhere. DeepSpeed does not tell the optimizer; the layout is recomputed here and then
verified, so that another layout is refused instead of trained on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

_ALIGNMENT = 2  # the concatenation is padded to a multiple of this times the number of ranks


def partition_size(num_elements: int, world_size: int) -> int:
    """Elements of one rank's partition of a parameter group, padding included.

    Args:
        num_elements: of the group's tensors together.
        world_size: number of ranks.

    Source: deepspeed, runtime/zero/stage_1_and_2.py and runtime/bf16_optimizer.py.
    """
    return -(-num_elements // (_ALIGNMENT * world_size)) * _ALIGNMENT


class Piece(NamedTuple):
    """A run of elements of one tensor inside a partition.

    Attributes:
        tensor: index of the tensor in its group.
        start: first element in the partition.
        length: number of elements.
        offset: first element in the flattened tensor.
    """

    tensor: int
    start: int
    length: int
    offset: int


def cut_into_pieces(sizes: Sequence[int], partition_size: int, rank: int) -> list[Piece]:
    """Which pieces of consecutive tensors fall into one rank's partition.

    Args:
        sizes: elements of each tensor, in order of concatenation.
        partition_size: elements of a partition.
        rank: which partition.

    Returns:
        the pieces in order; empty if the partition holds only padding.
    """
    begin, end = rank * partition_size, (rank + 1) * partition_size
    pieces, position = [], 0
    for tensor, size in enumerate(sizes):
        first, last = max(position, begin), min(position + size, end)
        if first < last:
            pieces.append(Piece(tensor, first - begin, last - first, first - position))
        position += size
    return pieces


def find_pieces(
    tensors: Sequence[Tensor],
    held: Sequence[Tensor],
    process_group: dist.ProcessGroup | None = None,
) -> list[Piece]:
    """Find the model's tensors in the partition that DeepSpeed put in their place, and verify it.

    Args:
        tensors: the model's tensors of the only group, in order.
        held: what the optimizer holds instead of them, before any step or load.
        process_group: the data-parallel ranks; None for all ranks. Every rank must call.

    Returns:
        this rank's pieces.

    Raises:
        RuntimeError: on every rank, if on any rank the partition is not laid out as expected.
    """
    distributed = dist.is_initialized()
    rank = dist.get_rank(process_group) if distributed else 0
    world_size = dist.get_world_size(process_group) if distributed else 1
    pieces = cut_into_pieces([tensor.numel() for tensor in tensors], held[0].numel(), rank)
    if len(held) == 1:
        problem = layout_problem(tensors, held[0], pieces, world_size)
    else:
        problem = f"found {len(held)} tensors, expected one flat partition"
    _refuse_together(problem, held[0].device, process_group)
    return pieces


def layout_problem(
    tensors: Sequence[Tensor], partition: Tensor, pieces: Sequence[Piece], world_size: int
) -> str | None:
    """Compare a flat partition with the model's tensors.

    Values alone would not do: tensors of zeros and ones look alike. So the order of the tensors in
    the memory of the flat 16-bit (or fp32) group, of which they are views, is compared as well.

    Args:
        tensors: the model's tensors of the group, in order.
        partition: this rank's flat master copy, before any step or load.
        pieces: the expected layout.
        world_size: number of partitions.

    Returns:
        what is wrong, or None.
    """
    total = sum(tensor.numel() for tensor in tensors)
    padded = partition_size(total, world_size) * world_size
    if partition.dim() != 1 or partition.dtype != torch.float32:
        return f"found a {partition.dtype} tensor of shape {tuple(partition.shape)}"
    if partition.numel() * world_size != padded:
        return f"found {partition.numel()} x {world_size} elements, expected {padded} in all"
    return _order_problem(tensors) or _value_problem(tensors, partition, pieces)


def _order_problem(tensors: Sequence[Tensor]) -> str | None:
    position = tensors[0].storage_offset()
    for index, tensor in enumerate(tensors):
        if tensor.storage_offset() != position:
            return f"tensor {index} lies at {tensor.storage_offset()}, expected {position}"
        position += tensor.numel()
    if len({tensor.untyped_storage().data_ptr() for tensor in tensors}) > 1:
        return "the model's tensors are not views of one flat tensor"
    return None


def _value_problem(
    tensors: Sequence[Tensor], partition: Tensor, pieces: Sequence[Piece]
) -> str | None:
    for piece in pieces:
        found = partition.narrow(0, piece.start, piece.length)
        wanted = tensors[piece.tensor].reshape(-1).narrow(0, piece.offset, piece.length)
        if not torch.equal(found, wanted.to(found.dtype)):
            return f"the values of tensor {piece.tensor} differ"
    return None


def _refuse_together(
    problem: str | None, device: torch.device, process_group: dist.ProcessGroup | None
) -> None:
    """Raise on every rank if one rank has a problem, so that no rank waits for another."""
    failed = torch.tensor(int(problem is not None), device=device)
    if dist.is_initialized():
        dist.all_reduce(failed, group=process_group)
    if failed.item():
        raise RuntimeError(
            "the flat partition that DeepSpeed handed to the optimizer is not laid out as expected "
            f"({problem or 'on another rank'}); call bind() right after deepspeed.initialize and "
            "before loading a checkpoint, leave round_robin_gradients and parameter_alignment off, "
            "and use a supported DeepSpeed version"
        )
