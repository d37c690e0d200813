"""The masked-LM head's decoder and loss without fp32 logits.

The logits stand once in memory, in the dtype of the activations. A Triton program reads a few rows
of them at once: an online log-sum-exp in fp32, the bias added on the way. In the backward pass a
second kernel turns the rows into their gradients in place and adds up their columns, the gradient
of the bias; two matrix products follow. So the logits are read twice and written once, besides the
products. Where they would be larger than a limit, rows are worked off in chunks and the logits of a
chunk are computed again for its gradients, so they never stand in memory as a whole.

No atomics and no data-dependent order: the same input gives the same bits.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from ds_bert_kernels.reference import masked_lm_head as reference
from torch import Tensor

MAX_LOGITS_BYTES = 2 << 30  # above: chunks, at the price of one more matrix product
_ALIGNMENT = 128  # vocabulary entries; rows then start on cache lines and are read as vectors
_ROWS = 4  # that a program reads at once; the bias is read once for all of them
_LANES = 128  # threads of a program; each reads 16 bytes of a row at once
_GROUP = 128  # rows whose column sums one program adds up
_LOG2E, _LN2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)


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
        table = _aligned(weight)
        shift = F.pad(bias.float(), (0, len(table) - len(bias)), value=-torch.inf)
        rows = max(1, max_logits_bytes // (len(table) * hidden.element_size()))
        ctx.chunks, ctx.ignore_index = _chunks(len(hidden), rows), ignore_index
        ctx.size, ctx.bias_dtype = len(weight), bias.dtype
        logits = hidden.new_empty(min(rows, len(hidden)), len(table))
        sums = torch.empty(2, len(hidden), dtype=torch.float32, device=hidden.device)
        hits = torch.empty(len(hidden), dtype=torch.int32, device=hidden.device)
        for part in ctx.chunks:
            chunk = _logits(hidden[part], table, logits)
            _rows_forward[(triton.cdiv(len(chunk), _ROWS),)](
                chunk, shift, labels[part], *sums[:, part], hits[part],
                *chunk.shape, ignore_index, ROWS=_ROWS, **_tiles(chunk),
            )  # fmt: skip
        losses, log_sums = sums
        ctx.save_for_backward(hidden, table, shift, labels, log_sums)
        # A single chunk's logits become the gradients; more are computed again.
        is_kept = len(ctx.chunks) == 1 and any(ctx.needs_input_grad)
        ctx.logits = logits if is_kept else None
        correct = hits.sum()
        ctx.mark_non_differentiable(correct)
        return losses.sum(), correct

    @staticmethod
    def backward(ctx, loss_gradient, _):
        hidden, table, shift, labels, log_sums = ctx.saved_tensors
        groups = [triton.cdiv(part.stop - part.start, _GROUP) for part in ctx.chunks]
        column_sums = torch.empty(sum(groups), len(table), device=table.device)
        hidden_gradient, product = torch.empty_like(hidden), hidden.new_empty(table.shape)
        # Rounded products of several chunks are added up in fp32; one alone is the gradient.
        total = torch.zeros_like(product, dtype=torch.float32) if len(groups) > 1 else product
        logits, ctx.logits = ctx.logits, None
        is_kept = logits is not None
        if not is_kept:
            logits = hidden.new_empty(ctx.chunks[0].stop, len(table))
        for part, sums in zip(ctx.chunks, column_sums.split(groups), strict=True):
            chunk = logits if is_kept else _logits(hidden[part], table, logits)
            blocks = triton.cdiv(len(table) * chunk.element_size(), _LANES * 16)
            _rows_backward[(blocks, len(sums))](
                chunk, shift, labels[part], log_sums[part], loss_gradient, sums,
                *chunk.shape, ctx.ignore_index, GROUP=_GROUP, **_tiles(chunk),
            )  # fmt: skip
            torch.mm(chunk, table, out=hidden_gradient[part])
            torch.mm(chunk.T, hidden[part], out=product)
            if total is not product:
                total += product
        weight_gradient = total[: ctx.size].to(table.dtype)
        bias_gradient = column_sums.sum(0)[: ctx.size].to(ctx.bias_dtype)
        return hidden_gradient, weight_gradient, bias_gradient, None, None, None


def _aligned(weight: Tensor) -> Tensor:
    """Weight [V, H] with more rows, up to a multiple of the alignment.

    What stands in them is all the same while it is finite: their bias is -inf. So where weights lie
    in a flat buffer, as those of DeepSpeed do, the rows are those of the next one and nothing is
    copied. A weight with a storage of its own, or at an address that products are slow with, is
    copied and padded with zeros.
    """
    (size, width), missing = weight.shape, -len(weight) % _ALIGNMENT
    end = weight.storage_offset() + (size + missing) * width
    fits = end * weight.itemsize <= weight.untyped_storage().nbytes()
    if fits and weight.is_contiguous() and weight.data_ptr() % 16 == 0:
        return weight.as_strided((size + missing, width), (width, 1))
    return F.pad(weight, (0, 0, 0, missing))


def _logits(hidden: Tensor, table: Tensor, buffer: Tensor) -> Tensor:
    """Hidden states [N, H] by the table [V, H], in the first N rows of the buffer."""
    return torch.mm(hidden, table.T, out=buffer[: len(hidden)])


def _chunks(num_rows: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, num_rows)) for start in range(0, num_rows, rows)]


def _tiles(logits: Tensor) -> dict[str, int]:
    """Constants of a kernel: a lane's vector is 16 bytes."""
    return {"LANES": _LANES, "VECTOR": 16 // logits.itemsize, "num_warps": _LANES // 32}


@triton.jit
def _rows_forward(
    logits, bias, labels, losses, log_sums, hits, N, V, ignore_index,
    ROWS: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Loss, log-sum-exp and whether the first largest logit is the label's, of ROWS rows [V].

    A lane owns VECTOR neighbouring columns of each block, and keeps a maximum and a sum of its own
    for each row. They are combined once, after the last block.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exist = rows < N
    starts = logits + rows * V
    label = tl.load(labels + rows, mask=exist, other=ignore_index)
    counts = label != ignore_index
    place = tl.where(counts, label, 0)
    vector = place // VECTOR * VECTOR  # first column of the vector that the label is in
    maximum = tl.full([ROWS, LANES], -float("inf"), tl.float32)
    before = maximum  # of the vectors before the label's
    total = tl.zeros([ROWS, LANES], tl.float32)
    lanes, parts = tl.arange(0, LANES) * VECTOR, tl.arange(0, VECTOR)
    for start in range(0, V, LANES * VECTOR):
        firsts = start + lanes
        columns = firsts[:, None] + parts[None, :]
        inside = firsts < V
        shift = tl.load(bias + columns, mask=inside[:, None], other=-float("inf"))
        mask = exist[:, None, None] & inside[None, :, None]
        x = tl.load(starts[:, None, None] + columns[None, :, :], mask=mask, other=0.0)
        x = x.to(tl.float32) + shift[None, :, :]
        own = tl.max(x, 2)
        before = tl.where(firsts[None, :] < vector[:, None], tl.maximum(before, own), before)
        largest = tl.maximum(maximum, own)
        zero = _finite(largest) * _LOG2E  # powers of 2 are what the hardware has
        total *= tl.exp2(maximum * _LOG2E - zero)
        total += tl.sum(tl.exp2(x * _LOG2E - zero[:, :, None]), 2)
        maximum = largest
    largest = tl.max(maximum, 1)
    zero = _finite(largest) * _LOG2E
    total = tl.sum(total * tl.exp2(maximum * _LOG2E - zero[:, None]), 1)
    log_sum = (zero + tl.log2(total)) * _LN2
    columns = vector[:, None] + parts[None, :]
    x = tl.load(starts[:, None] + columns, mask=exist[:, None], other=0.0).to(tl.float32)
    x += tl.load(bias + columns)
    own = tl.sum(tl.where(columns == place[:, None], x, 0.0), 1)
    earlier = tl.max(tl.where(columns < place[:, None], x, -float("inf")), 1)
    is_first = (own == largest) & (tl.maximum(tl.max(before, 1), earlier) < own)
    tl.store(losses + rows, tl.where(counts, log_sum - own, 0.0), mask=exist)
    tl.store(log_sums + rows, log_sum, mask=exist)
    tl.store(hits + rows, (counts & is_first).to(tl.int32), mask=exist)


@triton.jit
def _finite(largest):
    """Where all so far is -inf there is nothing to add, and -inf - -inf is not a number."""
    return tl.where(largest == -float("inf"), 0.0, largest)


@triton.jit
def _rows_backward(
    logits, bias, labels, log_sums, loss_gradient, column_sums, N, V, ignore_index,
    GROUP: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Replace the logits of GROUP rows, a block of columns, by the loss's gradient to them.

    The sums of the columns, in fp32 and before rounding, are those of the group's row [V].
    """
    group = tl.program_id(1).to(tl.int64)
    firsts = (tl.program_id(0) * LANES + tl.arange(0, LANES)) * VECTOR
    columns = firsts[:, None] + tl.arange(0, VECTOR)[None, :]
    inside = (firsts < V)[:, None]
    shift = tl.load(bias + columns, mask=inside, other=-float("inf"))
    scale = tl.load(loss_gradient).to(tl.float32)
    total = tl.zeros([LANES, VECTOR], tl.float32)
    for row in range(group * GROUP, tl.minimum((group + 1) * GROUP, N)):
        label = tl.load(labels + row)
        counts = label != ignore_index
        # A row that does not count is not read, and its probabilities are exp(0 - inf) = 0.
        log_sum = tl.where(counts, tl.load(log_sums + row), float("inf"))
        place = tl.where(counts, label, -1).to(tl.int32)
        is_read = (firsts < tl.where(counts, V, 0))[:, None]
        pointers = logits + row * V + columns
        x = tl.load(pointers, mask=is_read, other=0.0).to(tl.float32) + shift
        share = tl.exp2(x * _LOG2E - log_sum * _LOG2E)
        gradient = tl.where(columns == place, share - 1.0, share) * scale
        tl.store(pointers, gradient.to(logits.dtype.element_ty), mask=inside)
        total += gradient
    tl.store(column_sums + group * V + columns, total, mask=inside)
