"""oneDNN's linear layer against float64, and where it is not used."""

import psutil
import pytest
import torch
import torch.nn.functional as F
from ds_bert_kernels import linear as module
from ds_bert_kernels.linear import linear


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
    found, plain = (results(compute, layer, dtype) for compute in (linear, F.linear))
    for ours, theirs, truth in zip(found, plain, exact, strict=True):
        error, allowed = (float((result - truth).norm()) for result in (ours, theirs))
        assert error <= 1.5 * allowed


def test_autocast_takes_torchs_own(layer):
    x, weight, bias, _ = (tensor.float() for tensor in layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16


def test_other_numbers_are_torchs_own(layer):
    x, weight, bias, _ = layer
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


@pytest.fixture
def tried_anew():
    module._is_right.cache_clear()
    yield
    module._is_right.cache_clear()


@pytest.mark.usefixtures("tried_anew")
@pytest.mark.parametrize("fault", ["missing", "wrong"])
def test_an_operator_that_is_not_right_is_not_used(layer, monkeypatch, fault):
    def product(x, weight, bias=None):
        if fault == "missing":
            return torch.ops.mkldnn.no_such_operator(x, weight, bias)
        return F.linear(x, weight)

    monkeypatch.setattr(module, "_product", product)
    x, weight, bias, _ = (tensor.float() for tensor in layer)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


def test_shapes_that_are_seen_once_take_no_memory():
    """With oneDNN's own limits these would take about 100 MB."""
    weight, bias = torch.randn(64, 32, requires_grad=True), torch.zeros(64, requires_grad=True)

    def resident(lengths):
        for length in lengths:
            linear(torch.randn(length, 32, requires_grad=True), weight, bias).sum().backward()
        return psutil.Process().memory_info().rss

    before = resident(range(200, 240))
    assert resident(range(240, 310)) - before < 40e6
