"""Masked-LM head on a CPU: the gradient of the logits takes their place.

Plain torch keeps logits, log-probabilities, and two gradients of them, [N, V] in fp32 each; the
passes over that memory take as long as the matrix products. Here a few rows at a time, which stay
in the cache, become probabilities, and these the gradient, in the memory of the logits.
"""

from typing import Any

import torch
from ds_bert_kernels import reference
from ds_bert_kernels.linear import product
from torch import Tensor

_ROWS = 16  # of a vocabulary of 30,522 in fp32: 2 MB
# Not in fp16: there small probabilities are lost unless the loss scale comes before the rounding.
_DTYPES = (torch.float32, torch.bfloat16)


def masked_lm_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Same as `reference.masked_lm_loss`, about as exact; other dtypes are left to that.

    16-bit gradients of the logits are rounded before they are scaled by the loss's own gradient,
    not after.
    """
    if hidden.dtype not in _DTYPES or bool((labels == ignore_index).any()):
        return reference.masked_lm_loss(hidden, weight, bias, labels, ignore_index)
    return _MaskedLmLoss.apply(hidden, weight, bias, labels)


class _MaskedLmLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = product(hidden, weight, bias)
        losses, hits = torch.empty(len(labels)), torch.empty(len(labels), dtype=torch.bool)
        for start in range(0, len(labels), _ROWS):
            rows = slice(start, start + _ROWS)
            losses[rows], hits[rows] = _to_gradient(logits[rows], labels[rows])
        ctx.save_for_backward(hidden, weight, logits)
        correct = hits.sum()
        ctx.mark_non_differentiable(correct)
        return losses.sum(), correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        hidden, weight, gradient = ctx.saved_tensors
        scaled = (hidden * scale).to(hidden.dtype)
        return (
            (product(gradient, weight.t()) * scale).to(hidden.dtype),
            gradient.t() @ scaled,
            (gradient.sum(0) * scale).to(hidden.dtype),
            None,
        )


def _to_gradient(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and hit of each row; its logits become the gradient of its loss, softmax - one-hot."""
    index = labels[:, None]
    values = logits.float()
    wanted = values.gather(1, index)
    top, guess = values.max(1, keepdim=True)
    torch.softmax(values, 1, out=values)
    # log(sum(exp(values - top))) is minus the log of the top's probability, which is never 0.
    losses = top - wanted - values.gather(1, guess).log()
    values.scatter_add_(1, index, torch.full_like(wanted, -1.0))
    if values is not logits:
        logits.copy_(values)
    return losses[:, 0], (guess == index)[:, 0]
