"""`F.linear`, on a CPU through oneDNN.

torch multiplies fp32 matrices with MKL, which is at its best on one maker's processors; on an AMD
EPYC oneDNN's products are up to a quarter faster, twice with a whole vocabulary of outputs and for
the gradient of the weight. In 16 bits torch takes oneDNN itself, but adds the bias apart.
"""

import os
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# oneDNN and torch's layer on it each keep a program for 1,024 shapes, 0.2 MB apiece, and unpadded
# batches have new shapes every time. A batch's own, which its layers share, are a few dozen. Read
# when the first one is made.
for _name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`; on a CPU from oneDNN, gradients too but for that of a 16-bit weight.

    Args:
        x: [T, K], on any device.
        weight: [N, K], dtype of x.
        bias: [N], dtype of x; None where a kernel adds it later.

    Returns:
        [T, N], dtype of x.
    """
    elsewhere = x.device.type != "cpu" or torch.compiler.is_compiling()
    if elsewhere or bias is None or torch.is_autocast_enabled("cpu") or not _is_right(x.dtype):
        return F.linear(x, weight, bias)
    return _OneDnnProduct.apply(x, weight, bias)


@lru_cache
def _is_right(dtype: torch.dtype) -> bool:
    """Whether the operator, which is private to torch, takes this dtype and multiplies."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((5, 8), (16, 8), (16,))
    )
    try:
        found = _product(x, weight, bias)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError):
        return False
    return torch.allclose(found, F.linear(x, weight, bias), rtol=2e-2, atol=2e-2)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDnnProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        return _product(grad, weight.t()), _for_weight(grad, x), grad.sum(0)


def _for_weight(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x: [N, K] of [T, N] and [T, K]."""
    # In 16 bits torch's own product is the faster one here; oneDNN takes no sums over nothing.
    if x.dtype != torch.float32 or not len(x):
        return grad.t() @ x
    # The operator copies a first factor that is transposed. The other way round that is x, and the
    # result has to be turned.
    if x.numel() + grad.shape[1] * x.shape[1] < grad.numel():
        return _product(x.t(), grad.t()).t().contiguous()
    return _product(grad.t(), x.t())
