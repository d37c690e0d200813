"""LAMB over a flat ZeRO partition in two passes over memory, as Triton kernels.

The partition is cut into blocks at multiples of a fixed size. A block that lies inside one tensor
is read and written as vectors; the few blocks that a border of tensors cuts are worked off in
masked pieces. Each piece leaves its two squared sums, and one program per tensor adds them up in a
fixed order: no atomics, so the same input gives the same bits. Nothing waits for the device.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from ds_bert_kernels.reference.lamb import Segment
from torch import Tensor

BLOCK = 4096
_REDUCE = 256


class PieceTable(NamedTuple):
    """The pieces of a partition on the device: whole blocks first, cut ones after them.

    Attributes:
        num_whole: number of whole blocks among the pieces.
        blocks: int32 [P], the block of each piece; likewise the following.
        first: int32 [P], first element within the block.
        last: int32 [P], the one after the last.
        weight_decay: fp32 [P].
        tensor: int32 [P], index of the tensor.
        adaptive: int32 [P], 1 where the trust ratio counts.
        members: int32 [P], the pieces sorted by tensor.
        starts: int32 [num_tensors + 1], each tensor's first place in `members`.
    """

    num_whole: int
    blocks: Tensor
    first: Tensor
    last: Tensor
    weight_decay: Tensor
    tensor: Tensor
    adaptive: Tensor
    members: Tensor
    starts: Tensor


def lamb_moments(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    segments: Sequence[Segment],
    num_tensors: int,
    *,
    betas: tuple[float, float],
    eps: float,
    bias_corrections: tuple[float, float],
    gradient_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> Tensor:
    """First pass; see `ds_bert_kernels.reference.lamb.lamb_moments`, whose twin this is."""
    table = piece_table(tuple(segments), num_tensors, parameter.device)
    partials = parameter.new_empty(2, len(table.blocks))
    if gradient_scale is None:
        gradient_scale = parameter.new_ones(())
    if found_inf is None:
        found_inf = parameter.new_zeros(())
    for part, is_cut in _launches(table):
        _moments[(part.stop - part.start,)](
            parameter, gradient, exp_avg, exp_avg_sq, gradient_scale, found_inf,
            *(column[part] for column in table[1:5]), *partials[:, part],
            *betas, 1 - betas[0], 1 - betas[1], eps, *(1 / c for c in bias_corrections),
            BLOCK=BLOCK, IS_CUT=is_cut, num_warps=8,
        )  # fmt: skip
    squared_norms = parameter.new_empty(2, num_tensors)
    if num_tensors:
        _add_up[(num_tensors,)](
            *partials, table.members, table.starts, *squared_norms, BLOCK=_REDUCE
        )
    return squared_norms


def lamb_apply(
    parameter: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    segments: Sequence[Segment],
    squared_norms: Tensor,
    *,
    lr: float,
    eps: float,
    bias_corrections: tuple[float, float],
    min_trust_ratio: float | None = None,
    max_trust_ratio: float | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Second pass; see `ds_bert_kernels.reference.lamb.lamb_apply`, whose twin this is."""
    table = piece_table(tuple(segments), squared_norms.shape[1], parameter.device)
    lowest = 0.0 if min_trust_ratio is None else min_trust_ratio
    highest = float("inf") if max_trust_ratio is None else max_trust_ratio
    if found_inf is None:
        found_inf = parameter.new_zeros(())
    for part, is_cut in _launches(table):
        _apply[(part.stop - part.start,)](
            parameter, exp_avg, exp_avg_sq, found_inf, *(column[part] for column in table[1:7]),
            *squared_norms, lr, eps, *(1 / c for c in bias_corrections), lowest, highest,
            BLOCK=BLOCK, IS_CUT=is_cut, num_warps=8,
        )  # fmt: skip


@lru_cache(maxsize=64)
def piece_table(
    segments: tuple[Segment, ...], num_tensors: int, device: torch.device
) -> PieceTable:
    """Cut the segments at the borders of the blocks; made once for each partition."""
    whole: list[tuple] = []
    cut: list[tuple] = []
    for segment in segments:
        position, end = segment.start, segment.start + segment.length
        while position < end:
            block = position // BLOCK
            stop = min(end, (block + 1) * BLOCK)
            first, last = position - block * BLOCK, stop - block * BLOCK
            piece = (block, first, last, segment.weight_decay, segment.tensor, segment.adaptive)
            (whole if last - first == BLOCK else cut).append(piece)
            position = stop
    columns = list(zip(*(whole + cut), strict=True)) or [()] * 6
    dtypes = (torch.int32,) * 3 + (torch.float32,) + (torch.int32,) * 2
    blocks, firsts, lasts, weight_decay, tensor, adaptive = (
        torch.tensor(column, dtype=dtype, device=device)
        for column, dtype in zip(columns, dtypes, strict=True)
    )
    of_tensor = tensor.long()
    members = of_tensor.sort(stable=True).indices.to(torch.int32)
    counts = torch.zeros(num_tensors + 1, dtype=torch.int64, device=device)
    counts[1:] = torch.bincount(of_tensor, minlength=num_tensors)
    starts = counts.cumsum(0).to(torch.int32)
    return PieceTable(
        len(whole), blocks, firsts, lasts, weight_decay, tensor, adaptive, members, starts
    )


def _launches(table: PieceTable) -> list[tuple[slice, bool]]:
    """The slices of pieces that are worked off together, and whether they need masks."""
    parts = [(slice(0, table.num_whole), False), (slice(table.num_whole, len(table.blocks)), True)]
    return [(part, is_cut) for part, is_cut in parts if part.start < part.stop]


@triton.jit
def _direction(p, m, v, weight_decay, eps, scale1, scale2):
    return (m * scale1) / (tl.sqrt(v * scale2) + eps) + weight_decay * p


@triton.jit
def _moments(
    parameter, gradient, exp_avg, exp_avg_sq, gradient_scale, found_inf,
    blocks, firsts, lasts, weight_decays, parameter_sums, update_sums,
    beta1, beta2, rest1, rest2, eps, scale1, scale2,
    BLOCK: tl.constexpr, IS_CUT: tl.constexpr,
):  # fmt: skip
    """Moments and squared sums of one piece."""
    if tl.load(found_inf) != 0:
        return
    piece = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    places = tl.load(blocks + piece).to(tl.int64) * BLOCK + lanes
    inside = None
    if IS_CUT:
        inside = (lanes >= tl.load(firsts + piece)) & (lanes < tl.load(lasts + piece))
    p = tl.load(parameter + places, mask=inside)
    g = tl.load(gradient + places, mask=inside).to(tl.float32) * tl.load(gradient_scale)
    m = beta1 * tl.load(exp_avg + places, mask=inside) + rest1 * g
    v = beta2 * tl.load(exp_avg_sq + places, mask=inside) + rest2 * g * g
    tl.store(exp_avg + places, m, mask=inside)
    tl.store(exp_avg_sq + places, v, mask=inside)
    u = _direction(p, m, v, tl.load(weight_decays + piece), eps, scale1, scale2)
    if IS_CUT:
        p = tl.where(inside, p, 0.0)
        u = tl.where(inside, u, 0.0)
    tl.store(parameter_sums + piece, tl.sum(p * p, 0))
    tl.store(update_sums + piece, tl.sum(u * u, 0))


@triton.jit
def _add_up(
    parameter_sums, update_sums, members, starts, parameter_norms, update_norms,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums over the pieces of one tensor, in their order."""
    tensor = tl.program_id(0)
    end = tl.load(starts + tensor + 1)
    p = tl.zeros((BLOCK,), tl.float32)
    u = tl.zeros((BLOCK,), tl.float32)
    for start in range(tl.load(starts + tensor), end, BLOCK):
        places = start + tl.arange(0, BLOCK)
        pieces = tl.load(members + places, mask=places < end, other=0)
        p += tl.load(parameter_sums + pieces, mask=places < end, other=0.0)
        u += tl.load(update_sums + pieces, mask=places < end, other=0.0)
    tl.store(parameter_norms + tensor, tl.sum(p, 0))
    tl.store(update_norms + tensor, tl.sum(u, 0))


@triton.jit
def _apply(
    parameter, exp_avg, exp_avg_sq, found_inf,
    blocks, firsts, lasts, weight_decays, tensors, adaptives, parameter_norms, update_norms,
    lr, eps, scale1, scale2, lowest, highest,
    BLOCK: tl.constexpr, IS_CUT: tl.constexpr,
):  # fmt: skip
    """The step of one piece, scaled by its tensor's trust ratio."""
    if tl.load(found_inf) != 0:
        return
    piece = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    places = tl.load(blocks + piece).to(tl.int64) * BLOCK + lanes
    inside = None
    if IS_CUT:
        inside = (lanes >= tl.load(firsts + piece)) & (lanes < tl.load(lasts + piece))
    tensor = tl.load(tensors + piece)
    parameter_norm = tl.sqrt(tl.load(parameter_norms + tensor))
    update_norm = tl.sqrt(tl.load(update_norms + tensor))
    ratio = tl.minimum(tl.maximum(parameter_norm / update_norm, lowest), highest)
    counts = (parameter_norm > 0) & (update_norm > 0) & (tl.load(adaptives + piece) != 0)
    ratio = tl.where(counts, ratio, 1.0)
    p = tl.load(parameter + places, mask=inside)
    m = tl.load(exp_avg + places, mask=inside)
    v = tl.load(exp_avg_sq + places, mask=inside)
    u = _direction(p, m, v, tl.load(weight_decays + piece), eps, scale1, scale2)
    tl.store(parameter + places, p - lr * ratio * u, mask=inside)
