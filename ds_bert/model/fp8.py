"""A linear layer whose three matrix products run in fp8, with current per-tensor scaling.

Activations and weights are rounded to E4M3 (finer), output gradients to E5M2 (wider range), each
tensor with the scale that its own largest absolute value asks for. Sums are taken in fp32.

Sources: Micikevicius et al. 2022, "FP8 Formats for Deep Learning" (the two formats and what each
is for); Transformer Engine's "current scaling" recipe (scale from the tensor itself, no history).
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ds_bert.errors import ConfigurationError

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
ALIGNMENT = 16  # elements; cuBLASLt's fp8 products take rows of whole 16-byte pieces
LOWEST_CAPABILITY = (8, 9)


def check_fp8(device: torch.device, dtype: torch.dtype, sizes: Iterable[int]) -> None:
    """Refuse what `fp8_linear` cannot serve.

    The CPU is allowed, in bf16 and fp32, for tests: PyTorch emulates the products there, which is
    slower than plain bf16.

    Args:
        device: where the model will be.
        dtype: of its activations and parameters.
        sizes: numbers of inputs and outputs of its linear layers.

    Raises:
        ConfigurationError: what was found and what is expected.
    """
    problem = _device_problem(device, dtype)
    odd = [size for size in sizes if size % ALIGNMENT]
    if problem is None and odd:
        problem = f"found linear layers of size {odd[0]}, expected multiples of {ALIGNMENT}"
    if problem:
        raise ConfigurationError(f"fp8: {problem}; switch it off")


def _device_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) < LOWEST_CAPABILITY:
            return f"found CUDA capability {major}.{minor}, expected 8.9 or higher (Ada, Hopper)"
    elif device.type != "cpu":
        return f"found device {device.type}, expected cuda (or cpu, slow)"
    allowed = (torch.bfloat16,) if device.type == "cuda" else (torch.bfloat16, torch.float32)
    return None if dtype in allowed else f"found {dtype}, expected torch.bfloat16"


def fp8_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` with its forward and both of its backward products in fp8.

    A tensor of zeros gives zeros. An infinity or NaN in an input makes every result computed from
    it non-finite, so that a check of the gradients sees it. Never waits for the device.

    Args:
        x: [..., K] bf16 (fp32 on the CPU); any number of rows, also none.
        weight: [N, K], dtype of x; N and K are multiples of 16.
        bias: [N], dtype of x; None where a kernel adds it later. It is added without fp8; its
            gradient is summed in fp32.

    Returns:
        [..., N], dtype of x. Products are rounded to that dtype, the output again after the bias.
    """
    assert x.dtype == weight.dtype, (x.dtype, weight.dtype)
    assert bias is None or bias.dtype == x.dtype, (x.dtype, bias)
    num_outputs, num_inputs = weight.shape
    assert num_inputs % ALIGNMENT == num_outputs % ALIGNMENT == 0, weight.shape
    if x.numel() == 0:
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    num_rows = rows.shape[0]
    # The weight gradient sums over rows. In this form a tracer can prove the multiple of 16.
    whole = (num_rows + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    padded = F.pad(rows, (0, 0, 0, whole - num_rows))
    output = _Fp8Product.apply(padded, weight, bias)[:num_rows]
    return output.reshape(*x.shape[:-1], num_outputs)


class _Fp8Product(torch.autograd.Function):
    """The layer on [T, K] with T, K and N multiples of 16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x8, x_scale = _quantize(x, E4M3)
        weight8, weight_scale = _quantize(weight, E4M3)
        ctx.save_for_backward(x8, x_scale, weight8, weight_scale)
        ctx.dtype, ctx.has_bias = x.dtype, bias is not None
        # The bias is not left to the product: its place in a flat buffer need not be aligned.
        output = _product(x8, x_scale, weight8, weight_scale, x.dtype, fast=True)
        return output if bias is None else output + bias

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x8, x_scale, weight8, weight_scale = ctx.saved_tensors
        grad8, grad_scale = _quantize(grad, E5M2)
        grad_x = _product(grad8, grad_scale, weight8.t(), weight_scale, ctx.dtype)
        grad_weight = _product(grad8.t(), grad_scale, x8.t(), x_scale, ctx.dtype)
        if not ctx.has_bias:
            return grad_x, grad_weight, None
        return grad_x, grad_weight, grad.sum(0, dtype=torch.float32).to(ctx.dtype)


def _quantize(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Round to fp8; returns the fp8 tensor and the fp32 scale that it is to be multiplied by."""
    amax = tensor.abs().amax().float()  # torch.compile reads the tensor twice for aminmax
    # At least the smallest normal number: zeros stay zeros. NaN passes, infinity becomes NaN.
    scale = (amax / torch.finfo(dtype).max).clamp(min=torch.finfo(torch.float32).tiny)
    return (tensor.float() / scale).to(dtype), scale


def _product(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, dtype: torch.dtype, fast: bool = False
) -> Tensor:
    """Multiply a [M, I] by b [N, I] transposed: I contiguous in both, as fp8 tensor cores read it.

    Fast accumulation keeps partial sums in fewer bits: good enough for outputs, not for gradients.
    """
    return torch._scaled_mm(
        a.contiguous(),
        b.contiguous().t(),
        scale_a=a_scale,
        scale_b=b_scale,
        out_dtype=dtype,
        use_fast_accum=fast,
    )
