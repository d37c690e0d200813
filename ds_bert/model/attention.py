"""Attention within each sequence of an unpadded batch: several kernels, one signature.

A kernel is called with

    qkv: [T, 3, heads, head size], query, key and value of the tokens of B sequences in a row;
    cu_seqlens: int32 [B + 1], the first token of each sequence, and T;
    max_length: at least the tokens of the longest sequence;
    dropout: probability of dropping an attention weight

and returns [T, heads x head size]. The scores are scaled by head size ** -0.5.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ds_bert.model.dropout import dropout as drop

Attention = Callable[[Tensor, Tensor, int, float], Tensor]


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
    device: torch.device, dtype: torch.dtype, num_heads: int, head_size: int
) -> tuple[Attention, list[str]]:
    """The first kernel that runs there and agrees with plain torch, tried on a few sequences.

    The operators belong to torch's inner workings and may change with its version, so they are
    not trusted unseen.

    Returns:
        the kernel, and a line for each one that was refused.
    """
    refused: list[str] = []
    candidates = (flash_attention, memory_efficient_attention) if device.type == "cuda" else ()
    for attention in candidates:
        problem = find_problem(attention, device, dtype, num_heads, head_size)
        if problem is None:
            return attention, refused
        refused.append(f"{attention.__name__} not used: {problem}")
    return looped_attention, refused


def find_problem(
    attention: Attention, device: torch.device, dtype: torch.dtype, num_heads: int, head_size: int
) -> str | None:
    """What is wrong with a kernel's output or gradient, in words; None if nothing is."""
    generator = torch.Generator().manual_seed(0)
    lengths = (1, 128, 77, 50)
    shape = (sum(lengths), 3, num_heads, head_size)
    qkv = torch.randn(shape, generator=generator).to(device, dtype)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
    expected = _output_and_gradient(looped_attention, qkv.float(), cu_seqlens, 0.0)
    try:
        found = _output_and_gradient(attention, qkv, cu_seqlens, 0.0)
        dropped = _output_and_gradient(attention, qkv, cu_seqlens, 0.1)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError) as error:
        return str(error).strip().split("\n")[0]
    limit = 1e-4 if dtype == torch.float32 else 3e-2
    wrong = max(map(_difference, found, expected))
    if not wrong < limit:
        return f"relative error {wrong:.1e}, expected below {limit:.0e}"
    change = _difference(dropped[0], expected[0])
    return None if 0.1 < change < 1 else f"dropout 0.1 changes the output by {change:.1e}"


def _output_and_gradient(
    attention: Attention, qkv: Tensor, cu_seqlens: Tensor, dropout: float
) -> tuple[Tensor, Tensor]:
    qkv = qkv.detach().requires_grad_()
    output = attention(qkv, cu_seqlens, 128, dropout)
    output.square().sum().backward()
    assert qkv.grad is not None
    return output.detach(), qkv.grad


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())
