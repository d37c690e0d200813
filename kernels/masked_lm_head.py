"""The masked-LM head's decoder and loss without fp32 logits.

The logits stand once in memory, in the dtype of the activations. One Triton program per position
reads its row: an online log-sum-exp in fp32 with the bias added on the way. In the backward pass a
second kernel turns the rows into their gradients in place, and two matrix products follow. Where
the logits would be larger than a limit, rows are worked off in chunks and the logits of a chunk
are computed again for its gradients, so they never stand in memory as a whole.

No atomics and no data-dependent order: the same input gives the same bits.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from ds_bert_kernels.reference import masked_lm_head as reference
from torch import Tensor

MAX_LOGITS_BYTES = 2 << 30  # above: chunks, at the price of one more matrix product
_ALIGNMENT = 128  # vocabulary entries; rows then start on cache lines and are read as vectors
_BLOCK = 4096  # columns read at once


def masked_lm_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    ignore_index: int = -100,
    max_logits_bytes: int = MAX_LOGITS_BYTES,
) -> tuple[Tensor, Tensor]:
    """Decoder of the masked-LM head with its cross-entropy, over positions already gathered.

    Args:
        hidden: [N, H] outputs of the head's transform; N may be 0.
        weight: [V, H] decoder weight, tied to the word embeddings.
        bias: [V] decoder bias.
        labels: [N] int64 vocabulary ids, or `ignore_index`.
        ignore_index: label of a position that counts for nothing.
        max_logits_bytes: logits above this size are worked off in chunks of rows.

    Returns:
        sum of the cross-entropies in nats (fp32 scalar, differentiable in hidden, weight and
        bias), and the number of positions whose largest logit is the label's (int64 scalar).

    Source: Devlin et al. 2019, section 3.1; Milakov, Gimelshein 2018 (online softmax).
    """
    if len(hidden) == 0:  # a kernel cannot be launched for no rows
        return reference.masked_lm_loss(hidden, weight, bias, labels, ignore_index)
    return _MaskedLMLoss.apply(hidden, weight, bias, labels, ignore_index, max_logits_bytes)


class _MaskedLMLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, ignore_index, max_logits_bytes):
        hidden, labels = hidden.contiguous(), labels.contiguous()
        padded_weight, padded_bias = _pad_vocabulary(weight, bias)
        row_bytes = len(padded_weight) * hidden.element_size()
        rows = max(1, max_logits_bytes // row_bytes)
        sums = torch.empty(2, len(hidden), dtype=torch.float32, device=hidden.device)
        hits = torch.empty(len(hidden), dtype=torch.int32, device=hidden.device)
        for part in _chunks(len(hidden), rows):
            logits = hidden[part] @ padded_weight.T
            _rows_forward[(len(logits),)](
                logits, padded_bias, labels[part], *sums[:, part], hits[part],
                logits.shape[1], ignore_index, BLOCK=_BLOCK, num_warps=8,
            )  # fmt: skip
        losses, log_sums = sums
        ctx.save_for_backward(hidden, weight, bias, labels, log_sums)
        # A single chunk's logits become the gradients; more are computed again.
        ctx.logits = logits if len(hidden) <= rows and any(ctx.needs_input_grad) else None
        ctx.rows, ctx.ignore_index = rows, ignore_index
        correct = hits.sum()
        ctx.mark_non_differentiable(correct)
        return losses.sum(), correct

    @staticmethod
    def backward(ctx, loss_gradient, _):
        hidden, weight, bias, labels, log_sums = ctx.saved_tensors
        padded_weight, padded_bias = _pad_vocabulary(weight, bias)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient: Any = 0
        bias_gradient: Any = 0
        chunks = _chunks(len(hidden), ctx.rows)
        sum_dtype = weight.dtype if len(chunks) == 1 else torch.float32
        for part in chunks:
            logits, ctx.logits = ctx.logits, None
            if logits is None:
                logits = hidden[part] @ padded_weight.T
            _rows_backward[(len(logits),)](
                logits, padded_bias, labels[part], log_sums[part], loss_gradient,
                logits.shape[1], ctx.ignore_index, BLOCK=_BLOCK, num_warps=8,
            )  # fmt: skip
            torch.mm(logits, padded_weight, out=hidden_gradient[part])
            weight_gradient = weight_gradient + (logits.T @ hidden[part]).to(sum_dtype)
            bias_gradient = bias_gradient + logits.sum(0, dtype=torch.float32)
        size = len(weight)
        weight_gradient = weight_gradient[:size].to(weight.dtype)
        bias_gradient = bias_gradient[:size].to(bias.dtype)
        return hidden_gradient, weight_gradient, bias_gradient, None, None, None


def _pad_vocabulary(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight with rows of zeros and fp32 bias with -inf, up to a multiple of the alignment."""
    missing = -len(weight) % _ALIGNMENT
    padded_weight = torch.nn.functional.pad(weight, (0, 0, 0, missing))
    return padded_weight, torch.nn.functional.pad(bias.float(), (0, missing), value=-torch.inf)


def _chunks(num_rows: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, num_rows)) for start in range(0, num_rows, rows)]


@triton.jit
def _rows_forward(
    logits, bias, labels, losses, log_sums, hits, V, ignore_index, BLOCK: tl.constexpr
):
    """Loss, log-sum-exp and whether the first largest logit is the label's, of one row [V]."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * V
    label = tl.load(labels + row)
    maximum = -float("inf")
    total = 0.0
    best = V
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        x = tl.load(logits + columns, mask=inside, other=0.0).to(tl.float32)
        x += tl.load(bias + columns, mask=inside, other=-float("inf"))
        block_maximum = tl.max(x, 0)
        if block_maximum > maximum:
            best = tl.min(tl.where(x == block_maximum, columns, V), 0)
            total *= tl.exp(maximum - block_maximum)
            maximum = block_maximum
        # Where all so far is -inf there is nothing to add, and -inf - -inf is not a number.
        total += tl.sum(tl.exp(x - tl.where(maximum == -float("inf"), 0.0, maximum)), 0)
    log_sum = maximum + tl.log(total)
    counts = label != ignore_index
    place = tl.where(counts, label, 0)
    own = tl.load(logits + place).to(tl.float32) + tl.load(bias + place)
    tl.store(losses + row, tl.where(counts, log_sum - own, 0.0))
    tl.store(log_sums + row, log_sum)
    tl.store(hits + row, (counts & (best == label)).to(tl.int32))


@triton.jit
def _rows_backward(
    logits, bias, labels, log_sums, loss_gradient, V, ignore_index, BLOCK: tl.constexpr
):
    """Replace the logits of one row [V] by the gradient of the loss with respect to them."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * V
    label = tl.load(labels + row)
    log_sum = tl.load(log_sums + row)
    scale = tl.load(loss_gradient).to(tl.float32)
    counts = label != ignore_index
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < V
        x = tl.load(logits + columns, mask=inside, other=0.0).to(tl.float32)
        x += tl.load(bias + columns, mask=inside, other=-float("inf"))
        gradient = (tl.exp(x - log_sum) - (columns == label).to(tl.float32)) * scale
        gradient = tl.where(counts, gradient, 0.0)
        tl.store(logits + columns, gradient.to(logits.dtype.element_ty), mask=inside)
