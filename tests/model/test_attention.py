"""Attention kernels: the plain one against a mask over everything, and the choice among them."""

import pytest
import torch
import torch.nn.functional as F
from gpu_marks import NEEDS_GPU

from ds_bert.model import attention
from ds_bert.model.attention import (
    choose_attention,
    find_problem,
    flash_attention,
    looped_attention,
    memory_efficient_attention,
    triton_attention,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LENGTHS = (1, 9, 30, 4)


def inputs(dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(5)
    qkv = torch.randn(sum(LENGTHS), 3, 2, 16, generator=generator, dtype=dtype).to(device)
    cu_seqlens = torch.tensor([0, *LENGTHS], device=device).cumsum(0).to(torch.int32)
    return qkv.requires_grad_(), cu_seqlens


def masked_attention(qkv, cu_seqlens, max_length, dropout):
    """Every token looks at every token of its own sequence."""
    sequence = torch.bucketize(torch.arange(len(qkv), device=qkv.device), cu_seqlens, right=True)
    same = sequence[:, None] == sequence
    query, key, value = qkv.transpose(0, 2).unbind(1)
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=same)
    return output.transpose(0, 1).flatten(1)


def test_loop_equals_a_mask():
    qkv, cu_seqlens = inputs()
    found = looped_attention(qkv, cu_seqlens, 128, 0.0)
    expected = masked_attention(qkv, cu_seqlens, 128, 0.0)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(found)
    (found_gradient,) = torch.autograd.grad(found, qkv, gradient)
    torch.testing.assert_close(found_gradient, torch.autograd.grad(expected, qkv, gradient)[0])


def test_dropout_keeps_the_mean():
    qkv, cu_seqlens = inputs()
    expected = looped_attention(qkv, cu_seqlens, 128, 0.0)
    torch.manual_seed(0)
    draws = torch.stack([looped_attention(qkv, cu_seqlens, 128, 0.3) for _ in range(400)])
    error = (draws.mean(0) - expected) / (draws.std(0) / 400**0.5 + 1e-12)
    assert error.abs().max() < 5
    assert draws.std(0).min() > 0


@pytest.mark.parametrize("kernel", [flash_attention, memory_efficient_attention, triton_attention])
def test_operators_take_the_arguments(kernel):
    """Their shapes and derivatives, without a GPU: tensors on the meta device hold no numbers."""
    qkv = torch.empty(44, 3, 2, 64, device="meta", dtype=torch.bfloat16, requires_grad=True)
    output = kernel(qkv, torch.empty(5, device="meta", dtype=torch.int32), 128, 0.1)
    assert output.shape == (44, 128)
    output.sum().backward()
    assert qkv.grad.shape == qkv.shape


def test_a_good_kernel_has_no_problem(monkeypatch):
    def with_dropout(qkv, cu_seqlens, max_length, dropout):
        return looped_attention(qkv, cu_seqlens, max_length, dropout)

    for dtype in (torch.float32, torch.bfloat16):
        assert find_problem(with_dropout, CPU, dtype, 2, 16) is None


def test_bad_kernels_have_one():
    def ignores_borders(qkv, cu_seqlens, max_length, dropout):
        return looped_attention(qkv, cu_seqlens[[0, -1]], max_length, dropout)

    def changed_signature(qkv, cu_seqlens):
        return qkv

    assert "relative error" in find_problem(ignores_borders, CPU, torch.bfloat16, 2, 16)
    assert "dropout 0.1 changes" in find_problem(masked_attention, CPU, torch.float32, 2, 16)
    assert "takes 2 positional" in find_problem(changed_signature, CPU, torch.float32, 2, 16)


def test_choice_falls_through_the_chain(monkeypatch):
    assert choose_attention(CPU, torch.bfloat16, 2, 16) == (looped_attention, [])
    problems = {triton_attention: None, flash_attention: None, memory_efficient_attention: None}
    times = {triton_attention: 1.0, flash_attention: 1.5}
    monkeypatch.setattr(attention, "find_problem", lambda kernel, *_: problems[kernel])
    monkeypatch.setattr(attention, "milliseconds", lambda kernel, *_: times[kernel])

    def choice():
        return choose_attention(CUDA, torch.bfloat16, 2, 16)

    measured = "128 tokens: triton 1.000 ms, flash 1.500 ms, 512 tokens: triton 1.000 ms"
    assert choice() == (triton_attention, [f"{measured}, flash 1.500 ms"])
    same = ["flash_attention", "fused norms"]
    assert choose_attention(CUDA, torch.bfloat16, 2, 16, same) == (flash_attention, [])
    times[flash_attention] = 0.5
    same[0] = "triton_attention"
    assert choose_attention(CUDA, torch.bfloat16, 2, 16, same) == (triton_attention, [])
    chosen, lines = choice()
    assert chosen is flash_attention
    assert lines[0].startswith("triton_attention not used: not faster, 128 tokens: triton 1.000 ms")
    problems |= {triton_attention: "no compiler", flash_attention: "too old"}
    chosen, lines = choice()
    assert chosen is memory_efficient_attention
    assert lines == [
        "triton_attention not used: no compiler", "flash_attention not used: too old"
    ]  # fmt: skip
    problems[memory_efficient_attention] = "too new"
    chosen, lines = choice()
    assert chosen is looped_attention
    assert len(lines) == 3


def test_slow_at_one_length_is_not_faster(monkeypatch):
    def slow_at_128(kernel, length, *_):
        return 2.0 if (kernel, length) == (triton_attention, 128) else 1.0 + (length == 512)

    monkeypatch.setattr(attention, "milliseconds", slow_at_128)
    assert attention.compare_speed(CUDA, torch.bfloat16, 2, 16)[0] is False


def test_what_cannot_be_timed_takes_for_ever():
    def fails(qkv, cu_seqlens, max_length, dropout):
        raise RuntimeError("out of memory")

    arguments = (128, CPU, torch.float32, 1, 16)
    assert attention.milliseconds(fails, *arguments) == float("inf")


def test_each_call_of_the_triton_kernels_drops_others():
    generator = torch.Generator().manual_seed(5)
    qkv = torch.randn(9, 3, 1, 64, generator=generator)
    cu_seqlens = torch.tensor([0, 4, 9], dtype=torch.int32)
    torch.manual_seed(0)
    first, second = (triton_attention(qkv, cu_seqlens, 128, 0.5) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(triton_attention(qkv, cu_seqlens, 128, 0.5), first)
    plain = looped_attention(qkv, cu_seqlens, 128, 0.0)
    torch.testing.assert_close(triton_attention(qkv, cu_seqlens, 128, 0.0), plain)


@pytest.mark.parametrize(
    "dtype", [pytest.param(d, marks=NEEDS_GPU) for d in (torch.bfloat16, torch.float16)]
)
def test_triton_attention_on_a_gpu(dtype):
    assert find_problem(triton_attention, CUDA, dtype, 12, 64) is None
    assert "inf" not in attention.compare_speed(CUDA, dtype, 12, 64)[1]


@pytest.mark.parametrize(
    "dtype", [pytest.param(d, marks=NEEDS_GPU) for d in (torch.bfloat16, torch.float16)]
)
def test_flash_attention_on_a_gpu(dtype):
    assert find_problem(flash_attention, CUDA, dtype, 12, 64) is None


@pytest.mark.parametrize(
    "dtype", [pytest.param(d, marks=NEEDS_GPU) for d in (torch.bfloat16, torch.float32)]
)
def test_memory_efficient_attention_on_a_gpu(dtype):
    assert find_problem(memory_efficient_attention, CUDA, dtype, 12, 64) is None
