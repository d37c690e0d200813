"""Attention within unpadded sequences: correctness, drop rate, determinism, then speed.

    python benchmarks/gpu/attention.py [--smoke]

This project's kernels (triton) beside FlashAttention-2 (flash) and the memory-efficient operator of
torch. Errors are relative norms against plain torch in float64, in brackets those of plain torch in
the same dtype. Whether two runs give the same bits is told, not judged: FlashAttention's backward
adds up with atomics. Speed is forward and backward over 65,536 tokens; operations are counted as in
ds_bert/model/flops.py, and the backward as 2.5 times the forward.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import torch
from suite import Report, relative_errors, require, start
from torch import Tensor

require("numba", "ds_bert", "ds_bert_kernels")
from synthetic_data import lengths_of_batch

from ds_bert.model.attention import (
    flash_attention,
    looped_attention,
    memory_efficient_attention,
    triton_attention,
)
from ds_bert.model.flops import attention_flops

BARS = {"title": "Attention, forward and backward, 65,536 tokens", "value": "ms", "unit": "ms"}
# bf16 has three bits less than fp16; fp32 may go through split products of the tensor cores.
TOLERANCES = {torch.float16: 3e-4, torch.bfloat16: 2.4e-3, torch.float32: 1e-5}
LENGTHS = (1, 128, 256, 77, 2, 333, 511, 512)
SHORT_LENGTHS = (1, 128, 77, 2, 127)  # for which there may be other kernels
HEAD_SIZE = 64
DROPOUT = 0.1
KINDS = ("real", "full")
HEADS = {"BERT-base": 12, "BERT-large": 16}
# FlashAttention compares 8 random bits and triton 16, so their rates are multiples of these.
RESOLUTION = {flash_attention: 2**-8, triton_attention: 2**-16}
KERNELS = {
    triton_attention: (torch.float16, torch.bfloat16),
    flash_attention: (torch.float16, torch.bfloat16),
    memory_efficient_attention: (torch.float16, torch.bfloat16, torch.float32),
}


def name_of(attention) -> str:
    return attention.__name__.removesuffix("_attention")


def make_inputs(lengths, heads: int, dtype, device) -> tuple[Tensor, Tensor]:
    qkv = torch.randn(sum(lengths), 3, heads, HEAD_SIZE, device=device).to(dtype)
    return qkv, torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)


def run(attention, qkv: Tensor, borders: Tensor, longest: int, dropout: float) -> list[Tensor]:
    """Output and gradient."""
    qkv = qkv.detach().requires_grad_()
    output = attention(qkv, borders, longest, dropout)
    weight = torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output)
    return [output.detach(), *torch.autograd.grad(output, qkv, weight.to(output.dtype))]


def check(report: Report, attention, dtype, heads: int, lengths) -> None:
    qkv, borders = make_inputs(lengths, heads, dtype, report.device)
    longest = max(lengths)
    exact = run(looped_attention, qkv.double(), borders, longest, 0.0)
    plain, found = (
        relative_errors(("output", "gradient"), run(kernel, qkv, borders, longest, 0.0), exact)
        for kernel in (looped_attention, attention)
    )
    case = f"{name_of(attention)} {str(dtype)[6:]} {heads} heads, to {longest}"
    report.check(case, found, plain, TOLERANCES[dtype])


def check_drop_rate(report: Report, attention, dtype, heads: int, sequences: int) -> None:
    """Of equal weights, applied to unit vectors: each element of the output is one weight."""
    qkv, borders = make_inputs([HEAD_SIZE] * sequences, heads, dtype, report.device)
    unit = torch.eye(HEAD_SIZE, device=report.device).repeat(sequences, 1)[:, None]
    qkv[:, :2], qkv[:, 2] = 0, unit
    weights = attention(qkv, borders, HEAD_SIZE, DROPOUT)
    kept = weights[weights != 0].double()
    rate = 1 - len(kept) / weights.numel()
    limit = 5 * (DROPOUT * (1 - DROPOUT) / weights.numel()) ** 0.5 + RESOLUTION.get(attention, 0.0)
    report.check(
        f"{name_of(attention)} drops {rate:.5f}, asked {DROPOUT}",
        {"rate": abs(rate - DROPOUT)}, {"rate": 0.0}, limit,
        scale=abs(float(kept.mean()) * HEAD_SIZE * (1 - DROPOUT) - 1) < 1e-3,
    )  # fmt: skip


def tell_determinism(report: Report, attention, dtype, heads: int, lengths) -> None:
    qkv, borders = make_inputs(lengths, heads, dtype, report.device)
    for dropout in (0.0, DROPOUT):
        results = []
        for _ in range(4):
            torch.manual_seed(5)
            results.append(run(attention, qkv, borders, max(lengths), dropout))
        same = [
            all(torch.equal(parts[0], part) for part in parts)
            for parts in zip(*results, strict=True)
        ]
        words = " and ".join("same" if one else "not the same" for one in same)
        report.add(
            f"       {name_of(attention):24} p {dropout}, to {max(lengths)}: "
            f"forward and backward {words} bits",
            case=f"determinism, p {dropout}, to {max(lengths)}",
            impl=name_of(attention),
            same_bits_forward=same[0],
            same_bits_backward=same[1],
        )


def measure(report: Report, name: str, kind: str, longest: int, num_tokens: int, kernels) -> None:
    lengths, heads = lengths_of_batch(kind, longest, num_tokens), HEADS[name]
    dtype = torch.float32 if report.smoke else torch.bfloat16
    qkv, borders = make_inputs(lengths, heads, dtype, report.device)
    qkv.requires_grad_()
    gradient = torch.randn(len(qkv), heads * HEAD_SIZE, device=report.device).to(dtype)
    case = f"{name} {longest} {kind} lengths"
    flops = 3.5 * attention_flops(heads * HEAD_SIZE, lengths)
    for attention in kernels:
        for dropout in (DROPOUT, 0.0):

            def step(attention=attention, dropout=dropout):
                torch.autograd.grad(attention(qkv, borders, longest, dropout), qkv, gradient)

            impl = f"{name_of(attention)}, dropout {dropout:g}"
            report.time(case, impl, step, flops=flops, sequences=len(lengths), tokens=len(qkv))


def main() -> int:
    report = start("gpu_attention", __doc__ or "", BARS)
    smoke, kernels = report.smoke, KERNELS
    if smoke:  # Triton's interpreter is slow
        kernels = dict.fromkeys((looped_attention, triton_attention), (torch.float32,))
    batches = [(1, 77), (129, 2)] if smoke else [SHORT_LENGTHS * 4, LENGTHS * 4]
    for attention, dtypes in kernels.items():
        attempt = partial(report.attempt, name_of(attention))
        for dtype in dtypes:
            for heads in (2,) if smoke else HEADS.values():
                for lengths in batches:
                    attempt(check, report, attention, dtype, heads, lengths)
        attempt(check_drop_rate, report, attention, dtypes[0], 2, 8 if smoke else 512)
        for lengths in batches[:1] if smoke else batches:
            attempt(tell_determinism, report, attention, dtypes[0], 2, lengths)
    cases = [(name, kind, size) for size in (512, 128) for name in HEADS for kind in KINDS]
    for name, kind, size in [("BERT-base", "full", 128)] if smoke else cases:
        num_tokens = 128 if smoke else 1 << 16
        report.attempt("speed", measure, report, name, kind, size, num_tokens, kernels)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
