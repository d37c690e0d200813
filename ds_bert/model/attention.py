"""Attention within each sequence of an unpadded batch: several kernels, one signature.

A kernel is called with

    qkv: [T, 3, heads, head size], query, key and value of the tokens of B sequences in a row;
    cu_seqlens: int32 [B + 1], the first token of each sequence, and T;
    max_length: at least the tokens of the longest sequence;
    dropout: probability of dropping an attention weight

and returns [T, heads x head size]. The scores are scaled by head size ** -0.5.
"""

from collections.abc import Callable, Collection
from itertools import pairwise
from statistics import median

import torch
from ds_bert_kernels.reference.philox import draw_seeds
from torch import Tensor

from ds_bert.model.dropout import dropout as drop

Attention = Callable[[Tensor, Tensor, int, float], Tensor]
_TIMED_LENGTHS, _TIMED_TOKENS, _RUNS = (128, 512), 1 << 15, 10


def triton_attention(qkv: Tensor, cu_seqlens: Tensor, max_length: int, dropout: float) -> Tensor:
    """Kernels of this project, see `ds_bert_kernels.attention`: fp16 and bf16, head size 64.

    What is dropped follows from a seed, which is drawn from torch's random state on the device.
    """
    from ds_bert_kernels.attention import varlen_attention  # needs triton

    seed = draw_seeds(1, qkv.device) if dropout else None
    return varlen_attention(qkv, cu_seqlens, max_length, dropout, seed)


def flash_attention(qkv: Tensor, cu_seqlens: Tensor, max_length: int, dropout: float) -> Tensor:
    """FlashAttention-2 of torch: fp16 and bf16, Ampere and later.

    `torch.nn.attention.varlen` calls the same operator, but without dropout.
    Source: Dao 2023, "FlashAttention-2".
    """
    borders = (cu_seqlens, cu_seqlens, max_length, max_length)
    output = torch.ops.aten._flash_attention_forward(
        *qkv.unbind(1), *borders, dropout, is_causal=False, return_debug_mask=False
    )[0]
    return output.flatten(1)


def memory_efficient_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_length: int, dropout: float
) -> Tensor:
    """The memory-efficient kernel of torch: any floating point, any CUDA device.

    Source: Rabe, Staats 2021, "Self-attention Does Not Need O(n^2) Memory".
    """
    borders = (cu_seqlens, cu_seqlens, max_length, max_length)
    output = torch.ops.aten._efficient_attention_forward(
        *qkv[None].unbind(2), None, *borders, dropout, custom_mask_type=0, compute_log_sumexp=True
    )[0]
    return output[0].flatten(1)


@torch.compiler.disable
def looped_attention(qkv: Tensor, cu_seqlens: Tensor, max_length: int, dropout: float) -> Tensor:
    """Plain torch, one sequence after the other: for CPUs, and what the others are held to.

    Twice as fast there as `scaled_dot_product_attention`, which has no kernel with dropout.
    """
    del max_length
    outputs = []
    for part in qkv.split(cu_seqlens.diff().tolist()):
        query, key, value = part.permute(1, 2, 0, 3)
        scores = (query * qkv.shape[-1] ** -0.5) @ key.transpose(1, 2)
        weights = drop(torch.softmax(scores, -1), dropout)
        outputs.append((weights @ value).transpose(0, 1).flatten(1))
    return torch.cat(outputs)


def choose_attention(
    device: torch.device,
    dtype: torch.dtype,
    num_heads: int,
    head_size: int,
    only: Collection[str] | None = None,
) -> tuple[Attention, list[str]]:
    """The first kernel that runs there and agrees with plain torch, tried on a few sequences.

    Torch's operators belong to its inner workings and may change with its version, so they are not
    trusted unseen. This project's kernels have to be faster, too.

    Args:
        device: where it is to run.
        dtype: of query, key and value.
        num_heads: of each layer.
        head_size: of each head.
        only: names of kernels that were chosen before: others are not tried, nothing is timed.

    Returns:
        the kernel, and a line for each one that was refused and for what was measured.
    """
    lines: list[str] = []
    candidates = (triton_attention, flash_attention, memory_efficient_attention)
    for attention in candidates if device.type == "cuda" else ():
        if only is not None and attention.__name__ not in only:
            continue
        problem = find_problem(attention, device, dtype, num_heads, head_size)
        if problem is None and only is None and attention is triton_attention:
            is_faster, times = compare_speed(device, dtype, num_heads, head_size)
            if is_faster:
                return attention, [times]
            problem = f"not faster, {times}"
        if problem is None:
            return attention, lines
        lines.append(f"{attention.__name__} not used: {problem}")
    return looped_attention, lines


def compare_speed(
    device: torch.device, dtype: torch.dtype, num_heads: int, head_size: int
) -> tuple[bool, str]:
    """Whether this project's kernels are faster than FlashAttention at each length, and times."""
    is_faster, words = True, []
    for length in _TIMED_LENGTHS:
        ours, theirs = (
            milliseconds(attention, length, device, dtype, num_heads, head_size)
            for attention in (triton_attention, flash_attention)
        )
        is_faster = is_faster and ours < theirs
        words.append(f"{length} tokens: triton {ours:.3f} ms, flash {theirs:.3f} ms")
    return is_faster, ", ".join(words)


def milliseconds(
    attention: Attention,
    length: int,
    device: torch.device,
    dtype: torch.dtype,
    num_heads: int,
    head_size: int,
) -> float:
    """Time on a GPU of forward and backward with dropout, sequences of one length; inf if it fails.

    Runs are queued behind a pause, so that what the host needs to launch them does not count.
    """
    shape = (_TIMED_TOKENS, 3, num_heads, head_size)
    borders = torch.arange(0, _TIMED_TOKENS + 1, length, dtype=torch.int32, device=device)
    try:
        qkv = torch.randn(shape, dtype=dtype, device=device, requires_grad=True)
        output = attention(qkv, borders, length, 0.1)
        torch.autograd.grad(output, qkv, output)  # compiled and warm
        torch.cuda.synchronize(device)
        torch.cuda._sleep(1 << 25)  # cycles, some 20 ms
        events = [torch.cuda.Event(enable_timing=True) for _ in range(_RUNS + 1)]
        events[0].record()
        for event in events[1:]:
            torch.autograd.grad(attention(qkv, borders, length, 0.1), qkv, output)
            event.record()
        torch.cuda.synchronize(device)
    except RuntimeError:
        return float("inf")
    return median(one.elapsed_time(other) for one, other in pairwise(events))


def find_problem(
    attention: Attention, device: torch.device, dtype: torch.dtype, num_heads: int, head_size: int
) -> str | None:
    """What is wrong with a kernel's output or gradient, in words; None if nothing is."""
    for lengths in ((1, 128, 77, 50), (300, 1, 129)):
        problem = _problem_with(attention, lengths, device, dtype, num_heads, head_size)
        if problem is not None:
            return problem
    return None


def _problem_with(
    attention: Attention,
    lengths: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    num_heads: int,
    head_size: int,
) -> str | None:
    generator = torch.Generator().manual_seed(0)
    shape = (sum(lengths), 3, num_heads, head_size)
    qkv = torch.randn(shape, generator=generator).to(device, dtype)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
    batch = cu_seqlens, max(lengths)
    expected = _output_and_gradient(looped_attention, qkv.float(), *batch, 0.0)
    try:
        found = _output_and_gradient(attention, qkv, *batch, 0.0)
        dropped = _output_and_gradient(attention, qkv, *batch, 0.1)
    except Exception as error:  # whatever it is, the next kernel is tried
        return str(error).strip().split("\n")[0]
    limit = 1e-4 if dtype == torch.float32 else 3e-2
    wrong = max(map(difference, found, expected))
    if not wrong < limit:
        return f"relative error {wrong:.1e}, expected below {limit:.0e}"
    change = difference(dropped[0], expected[0])
    return None if 0.1 < change < 1 else f"dropout 0.1 changes the output by {change:.1e}"


def _output_and_gradient(
    attention: Attention, qkv: Tensor, cu_seqlens: Tensor, max_length: int, dropout: float
) -> tuple[Tensor, Tensor]:
    qkv = qkv.detach().requires_grad_()
    output = attention(qkv, cu_seqlens, max_length, dropout)
    output.square().sum().backward()
    assert qkv.grad is not None
    return output.detach(), qkv.grad


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative error of what a kernel computes, as a share of the norm of what is expected."""
    return float((found.float() - expected).norm() / expected.norm())
