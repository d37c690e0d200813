"""oneDNN's linear layer against float64, and where it is not used."""

import pytest
import torch
import torch.nn.functional as F

from ds_bert import linear
from ds_bert.linear import choose_linear, onednn_linear

CPU = torch.device("cpu")


@pytest.fixture
def layer():
    """x, weight, bias and an output gradient in float64."""
    generator = torch.Generator().manual_seed(3)
    shapes = (37, 48), (80, 48), (80,), (37, 80)
    return [torch.randn(shape, generator=generator).double() for shape in shapes]


def results(compute, tensors, dtype):
    *leaves, grad = (tensor.to(dtype) for tensor in tensors)
    for leaf in leaves:
        leaf.requires_grad_()
    output = compute(*leaves)
    found = [output.detach(), *torch.autograd.grad(output, leaves, grad)]
    assert all(tensor.dtype == dtype for tensor in found)
    return [tensor.double() for tensor in found]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_as_exact_as_torch(layer, dtype):
    rounded = [tensor.to(dtype).double() for tensor in layer]
    exact = results(F.linear, rounded, torch.float64)
    found, plain = (results(compute, layer, dtype) for compute in (onednn_linear, F.linear))
    for ours, theirs, truth in zip(found, plain, exact, strict=True):
        error, allowed = (float((result - truth).norm()) for result in (ours, theirs))
        assert error <= 1.5 * allowed


def test_autocast_takes_torchs_own(layer):
    x, weight, bias, _ = (tensor.float() for tensor in layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert onednn_linear(x, weight, bias).dtype == torch.bfloat16


def test_chosen_where_the_operator_is_right(monkeypatch):
    assert choose_linear(torch.device("cuda"), torch.float32) is F.linear
    assert choose_linear(CPU, torch.float32) is onednn_linear
    wrong = lambda x, weight, bias: F.linear(x, weight)  # noqa: E731
    for broken in (wrong, lambda *operands: torch.ops.mkldnn.no_such_operator(*operands)):
        monkeypatch.setattr(linear, "_product", broken)
        assert choose_linear(CPU, torch.float32) is F.linear
