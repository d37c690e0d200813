"""Plain-torch twin of LAMB over a flat partition."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Segment(NamedTuple):
    """The piece of one tensor that lies in a flat partition.

    Attributes:
        start: its first element in the partition.
        length: number of elements.
        tensor: index of the tensor, the same on every rank.
        weight_decay: the tensor's decay coefficient.
        adaptive: whether the tensor's step is scaled by its trust ratio.
    """

    start: int
    length: int
    tensor: int
    weight_decay: float
    adaptive: bool = True


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
    """First pass of LAMB over a flat partition: new moments and this partition's share of norms.

    Args:
        parameter: [n] fp32 partition; read only. Elements outside all segments are padding.
        gradient: [n] gradient of the partition; read only.
        exp_avg: [n] fp32 first moment, updated in place.
        exp_avg_sq: [n] fp32 second moment, updated in place.
        segments: the pieces of tensors in the partition; they do not overlap.
        num_tensors: number of tensors over all partitions.
        betas: decay rates of the two moments.
        eps: added to the square root of the second moment.
        bias_corrections: 1 - beta^step for each moment; (1.0, 1.0) for no correction.
        gradient_scale: scalar that the gradient is multiplied by; None for 1.
        found_inf: fp32 scalar; not 0: leave the moments as they are. None for 0.

    Returns:
        [2, num_tensors] fp32: squared norms of parameter and update, 0 for absent tensors, and
        anything where `found_inf` is not 0.

    Source: You et al. 2020, "Large Batch Optimization for Deep Learning", Algorithm 2.
    """
    squared_norms = parameter.new_zeros(2, num_tensors)
    if _is_set(found_inf):
        return squared_norms
    beta1, beta2 = betas
    for segment in segments:
        p, g, m, v = _pieces(segment, parameter, gradient, exp_avg, exp_avg_sq)
        g = g.float()
        if gradient_scale is not None:
            g = g * gradient_scale
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        update = _update(p, m, v, segment.weight_decay, eps, bias_corrections)
        # Not torch.linalg.vector_norm: on CPU it loses 3 digits over 20 million elements.
        squared_norms[0, segment.tensor] = p.square().sum()
        squared_norms[1, segment.tensor] = update.square().sum()
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
    """Second pass of LAMB over a flat partition: the step, scaled by each tensor's trust ratio.

    Args:
        parameter: [n] fp32 partition, updated in place.
        exp_avg: [n] fp32 first moment after the first pass; likewise `exp_avg_sq`.
        exp_avg_sq: [n] fp32.
        segments: as in the first pass.
        squared_norms: [2, num_tensors] fp32, the first pass's result summed over all partitions.
        lr: learning rate.
        eps: as in the first pass.
        bias_corrections: as in the first pass.
        min_trust_ratio: lower limit of the trust ratio; None for no limit.
        max_trust_ratio: upper limit of the trust ratio; None for no limit.
        found_inf: as in the first pass; not 0: leave the parameters as they are.

    Source: You et al. 2020, Algorithm 2; a tensor whose norm or update is 0 has ratio 1.
    """
    if _is_set(found_inf):
        return
    ratios = trust_ratios(squared_norms, min_trust_ratio, max_trust_ratio)
    for segment in segments:
        p, m, v = _pieces(segment, parameter, exp_avg, exp_avg_sq)
        update = _update(p, m, v, segment.weight_decay, eps, bias_corrections)
        if segment.adaptive:
            update.mul_(ratios[segment.tensor])
        p.sub_(update, alpha=lr)


def _is_set(flag: Tensor | None) -> bool:
    """Here alone the host asks; the fused kernels do not."""
    return flag is not None and bool(flag)


def _pieces(segment: Segment, *partitions: Tensor) -> list[Tensor]:
    return [partition.narrow(0, segment.start, segment.length) for partition in partitions]


def _update(
    parameter: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    weight_decay: float,
    eps: float,
    bias_corrections: tuple[float, float],
) -> Tensor:
    correction1, correction2 = bias_corrections
    denominator = (exp_avg_sq / correction2).sqrt_().add_(eps)
    return (exp_avg / correction1).div_(denominator).add_(parameter, alpha=weight_decay)


def trust_ratios(squared_norms: Tensor, lowest: float | None, highest: float | None) -> Tensor:
    """What the steps of tensors are scaled by.

    Args:
        squared_norms: [2, n] fp32, of n parameters and of their updates.
        lowest: lower limit; None for no limit.
        highest: upper limit; None for no limit.

    Returns:
        [n] fp32; 1 for a parameter or an update of norm 0.
    """
    parameter_norm, update_norm = squared_norms.sqrt()
    ratios = parameter_norm / update_norm
    if lowest is not None or highest is not None:
        ratios = ratios.clamp(lowest, highest)
    return torch.where((parameter_norm > 0) & (update_norm > 0), ratios, 1.0)
