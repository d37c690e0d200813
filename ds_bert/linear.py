"""Linear layers on a CPU through oneDNN.

torch multiplies fp32 matrices with MKL, which is at its best on one maker's processors; on an AMD
EPYC oneDNN's are up to a quarter faster. In 16 bits torch takes oneDNN itself, but adds the bias
apart.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Linear = Callable[[Tensor, Tensor, Tensor], Tensor]


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` with its output and the gradient of x from oneDNN; the weight's is torch's.

    Args:
        x: [T, K] on a CPU.
        weight: [N, K], dtype of x.
        bias: [N], dtype of x.

    Returns:
        [T, N], dtype of x.
    """
    if torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    return _OneDnnProduct.apply(x, weight, bias)


def choose_linear(device: torch.device, dtype: torch.dtype) -> Linear:
    """`onednn_linear` on a CPU where its operator, private to torch, is right; or `F.linear`."""
    return onednn_linear if device.type == "cpu" and _works(dtype) else F.linear


def _works(dtype: torch.dtype) -> bool:
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
        return _product(grad, weight.t()), grad.t() @ x, grad.sum(0)
