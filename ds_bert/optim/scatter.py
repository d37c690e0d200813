"""Sums of gradients over ranks, each sent to the one rank that steps with it.

At ZeRO stage 1 DeepSpeed 0.19 adds gradients by all-reduce: every rank gets all sums and throws
away all but those of its partition. A reduce-scatter sends half as much.
"""

from types import MethodType
from typing import Any

import torch
from deepspeed import comm as dist  # torch's, and what it does is in DeepSpeed's comms_logger
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor

from ds_bert.optim.bf16_optimizer import WaitlessBF16Optimizer, supports

_Slice = tuple[frozenset[int], Tensor, Tensor | None]
_Share = list[tuple[Tensor, Tensor | None]]


def scatter_gradients(engine: Any) -> None:
    """Let a new engine do so. It goes on as before where the recipe asks for another way.

    Those are stage 0, `reduce_scatter` false, gradients that are divided before they are added,
    and in fp16 and fp32 `overlap_comm`, for which DeepSpeed has a way of its own.
    """
    optimizer, is_sharded = engine.optimizer, engine.zero_optimization_stage() == 1
    if not is_sharded or not engine.zero_reduce_scatter():
        return
    if isinstance(optimizer, WaitlessBF16Optimizer):
        divides_first = engine.gradient_predivide_factor() != 1 or not engine.postscale_gradients()
        if supports(optimizer.optimizer) and not divides_first:
            optimizer.scatter(engine.communication_data_type)
            if engine.zero_overlap_comm() and engine.dp_world_size > 1:
                is_last = engine.is_gradient_accumulation_boundary
                optimizer.scatter_early(is_last, engine.zero_reduce_bucket_size())
    elif isinstance(optimizer, DeepSpeedZeroOptimizer) and not optimizer.overlap_comm:
        optimizer.allreduce_and_scatter = MethodType(_reduce_scatter, optimizer)


@torch.no_grad()
def _reduce_scatter(
    optimizer: DeepSpeedZeroOptimizer,
    bucket: list[_Slice],
    communication_data_type: torch.dtype,
    process_group: Any,
    **others: Any,
) -> None:
    """In place of DeepSpeed's `allreduce_and_scatter`, for sums that one rank each needs.

    Args:
        optimizer: whose method it is.
        bucket: ranks that need a sum, the slice of gradients (divided; the sum goes there), and
            where DeepSpeed adds the sum up, if anywhere.
        communication_data_type: of what is sent.
        process_group: the data-parallel ranks.
        others: DeepSpeed's other arguments, for its own way.
    """
    world_size, rank = dist.get_world_size(process_group), dist.get_rank(process_group)
    shares = _by_owner(bucket, world_size)
    sizes = [sum(gradient.numel() for gradient, _ in share) for share in shares]
    room = max(sizes)  # a reduce-scatter has equal shares; unequal ones are padded
    if world_size == 1 or world_size * room >= 2 * sum(sizes):
        others["process_group"] = process_group
        type(optimizer).allreduce_and_scatter(optimizer, bucket, communication_data_type, **others)
        return
    sent = bucket[0][1].new_zeros(world_size, room, dtype=communication_data_type)
    for row, share in zip(sent, shares, strict=True):
        for place, (gradient, _) in zip(_places(row, share), share, strict=True):
            place.copy_(gradient)
    own, found = shares[rank], sent[rank]
    dist.reduce_scatter_fn(found, sent.view(-1), group=process_group)  # in place
    for total, (gradient, output) in zip(_places(found, own), own, strict=True):
        optimizer._add_to_grad_partition_buffer(output, total)
        gradient.copy_(total)


def _by_owner(bucket: list[_Slice], world_size: int) -> list[_Share]:
    """What each rank needs of a bucket."""
    shares: list[_Share] = [[] for _ in range(world_size)]
    for (owner,), gradient, output in bucket:
        shares[owner].append((gradient, output))
    return shares


def _places(row: Tensor, share: _Share) -> list[Tensor]:
    """Where the slices of a share lie in its row, one after the other."""
    sizes = [gradient.numel() for gradient, _ in share]
    return list(row[: sum(sizes)].split(sizes))
