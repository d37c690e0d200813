"""Linear layers in fp8 against float64 products of independently rounded tensors."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from gpu_marks import NEEDS_FP8_GPU

from ds_bert.fp8.cast import E4M3, E5M2
from ds_bert.fp8.products import Operands, feed_forward, linear
from ds_bert.fp8.scales import Scales
from ds_bert.fp8.weights import Weights

NUM_INPUTS, NUM_INNER, NUM_OUTPUTS = 64, 96, 48
PLACES = [
    ("cpu", torch.float32),
    ("cpu", torch.bfloat16),
    pytest.param("cuda", torch.bfloat16, marks=NEEDS_FP8_GPU),
]
BOTH = pytest.mark.parametrize("block", ["linear", "feed_forward"])
HALVES = (16, 32)  # the outputs of two layers side by side


def layer_inputs(num_rows, device="cpu", dtype=torch.float32, inner=0):
    """x, weights and biases as leaves, and an output gradient of a typical small size."""
    generator = torch.Generator().manual_seed(7)
    sizes = (NUM_INPUTS, *([inner] if inner else []), NUM_OUTPUTS)
    shapes = [(num_rows, NUM_INPUTS)]
    for few, many in pairwise(sizes):
        shapes += [(many, few), (many,)]
    x, *parameters, grad = (
        torch.randn(shape, generator=generator).to(device, dtype)
        for shape in (*shapes, (num_rows, NUM_OUTPUTS))
    )
    for weight in parameters[::2]:
        weight.mul_(0.1)
    return [leaf.requires_grad_() for leaf in (x, *parameters)], grad / 8


def modules_of(parameters):
    pairs = zip(parameters[::2], parameters[1::2], strict=True)
    return [SimpleNamespace(weight=weight, bias=bias) for weight, bias in pairs]


def operands(groups, device, scales=None, fast=False):
    scales = scales or Scales(len(groups), torch.device(device))
    weights = Weights().get(groups)
    return [Operands(*pair, fast) for pair in zip(weights, scales.places(), strict=True)]


def fp8_linear(x, *parameters, scales=None, fast=False):
    groups = [[module] for module in modules_of(parameters)]
    made = operands(groups, x.device, scales, fast)
    if len(groups) == 1:
        return linear(x, groups[0], made[0])
    return feed_forward(x, [group[0] for group in groups], made, "none")


def plain_linear(x, weight, bias, *more):
    output = F.linear(x, weight, bias)
    return plain_linear(F.gelu(output), *more) if more else output


def results(layer, inputs, grad, **options):
    """The output and the gradients of x, weights and biases."""
    output = layer(*inputs, **options)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def rounded(tensor, largest, mantissa_bits, lowest_exponent):
    """A tensor in float64 after rounding to an fp8 format, from the definition of the format."""
    exact = tensor.detach().double().cpu()
    scale = 2.0 ** math.ceil(math.log2(float(exact.abs().max()) / largest))
    exponent = (exact / scale).abs().log2().floor().clamp(min=lowest_exponent)
    step = 2.0 ** (exponent - mantissa_bits)
    return (exact / scale / step).round() * step * scale


def as_e4m3(tensor):
    return rounded(tensor, 448.0, 3, -6)


def as_e5m2(tensor):
    return rounded(tensor, 57344.0, 2, -14)


def exact(tensor):
    return tensor.detach().double().cpu()


def assert_close(found, expected, sizes, inner=NUM_INPUTS):
    """Up to sums in fp32, and one rounding to the dtype; `sizes` are sums of absolute values."""
    dtype = found[0].dtype
    tolerance = inner * torch.finfo(torch.float32).eps
    tolerance += torch.finfo(dtype).eps if dtype != torch.float32 else 0
    for result, truth, size in zip(found, expected, sizes, strict=True):
        assert result.dtype == dtype
        assert ((exact(result) - truth).abs() <= tolerance * size).all()


@pytest.mark.parametrize("num_rows", [1, 5, 16, 37])
@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_results_are_exact_products_of_the_rounded_tensors(num_rows, device, dtype):
    inputs, grad = layer_inputs(num_rows, device, dtype)
    x, weight, grad8 = as_e4m3(inputs[0]), as_e4m3(inputs[1]), as_e5m2(grad)
    bias, raw_grad = exact(inputs[2]), exact(grad)
    expected = [x @ weight.T + bias, grad8 @ weight, grad8.T @ x, raw_grad.sum(0)]
    sizes = [
        x.abs() @ weight.abs().T + bias.abs(),
        grad8.abs() @ weight.abs(),
        grad8.abs().T @ x.abs(),
        raw_grad.abs().sum(0),
    ]
    assert_close(results(fp8_linear, inputs, grad), expected, sizes)


@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_a_feed_forward_block_step_by_step(device, dtype):
    """The GELU and its backward pass are never rounded but to fp8."""
    inputs, grad = layer_inputs(21, device, dtype, NUM_INNER)
    x, first, bias_1, second, bias_2 = inputs
    x8, first8, second8, grad8 = as_e4m3(x), as_e4m3(first), as_e4m3(second), as_e5m2(grad)
    inner = (x8 @ first8.T + exact(bias_1)).to(dtype).double().requires_grad_()
    middle = F.gelu(inner)
    middle8 = as_e4m3(middle)
    (slope,) = torch.autograd.grad(middle, inner, (grad8 @ second8).to(dtype).double())
    slope8 = as_e5m2(slope)
    expected = [middle8 @ second8.T + exact(bias_2), slope8 @ first8, slope8.T @ x8, slope.sum(0)]
    expected += [grad8.T @ middle8, exact(grad).sum(0)]
    found = results(fp8_linear, inputs, grad)
    # A last bit in 16 or 32 bits may be one in fp8: few numbers, each off by a step at most.
    for result, truth in zip(found, expected, strict=True):
        assert (exact(result) - truth).norm() <= 6e-3 * truth.norm()


@BOTH
def test_error_against_the_unrounded_layer_is_that_of_the_formats(block):
    inputs, grad = layer_inputs(37, inner=NUM_INNER * (block == "feed_forward"))
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    truths = results(plain_linear, exact_inputs, grad.double())
    pairs = zip(results(fp8_linear, inputs, grad), truths, strict=True)
    errors = [float((found - truth).norm() / truth.norm()) for found, truth in pairs]
    # One rounding is off by at most 1/16 (E4M3) or 1/8 (E5M2), about 0.4 of it on the average.
    assert errors[0] < 0.06
    assert max(errors[1:]) < 0.14
    assert errors[-1] < 1e-6, "the sums of the gradient itself"


def test_stored_scales_change_nothing_but_the_smallest_numbers():
    inputs, grad = layer_inputs(37)
    own, stored = Scales(1, torch.device("cpu")), Scales(1, torch.device("cpu"))
    stored.fix(torch.tensor([[2.0**-3, 2.0**-14]]))
    pairs = zip(*(results(fp8_linear, inputs, grad, scales=s) for s in (own, stored)), strict=True)
    for one, other in pairs:
        assert (one - other).norm() <= 1e-2 * one.norm()


def test_what_is_larger_than_before_becomes_the_largest_number():
    (x, weight, bias), _ = layer_inputs(5)
    scales = Scales(1, torch.device("cpu"))
    scales.fix(torch.tensor([[2.0**-10, 1.0]]))
    clipped = x.detach().clamp(-448 / 1024, 448 / 1024)
    assert not torch.equal(clipped, x)
    found = fp8_linear(x, weight, bias, scales=scales)
    assert torch.equal(found, fp8_linear(clipped, weight, bias, scales=scales))
    assert found.isfinite().all()


def test_layers_side_by_side_get_their_own_gradients():
    inputs, grad = layer_inputs(7)
    whole = results(fp8_linear, inputs, grad)
    x, *both = inputs
    pairs = zip(*(p.detach().split(HALVES) for p in both), strict=True)
    leaves = [x, *(part.clone().requires_grad_() for pair in pairs for part in pair)]

    def side_by_side(x, *parameters):
        modules = modules_of(parameters)
        return linear(x, modules, *operands([modules], "cpu"))

    found = results(side_by_side, leaves, grad)
    assert torch.equal(found[0], whole[0])
    assert torch.equal(found[1], whole[1])
    assert torch.equal(torch.cat(found[2::2]), whole[2])
    assert torch.equal(torch.cat(found[3::2]), whole[3])


@pytest.mark.parametrize("size", [0.0, 1e-42])  # the scale of the second would round to zero
def test_zeros_and_almost_zeros(size):
    inputs, grad = layer_inputs(5)
    silent = results(fp8_linear, inputs, torch.full_like(grad, size))
    assert all(bool((gradient.abs() <= 1e-40).all()) for gradient in silent[1:])
    (x, weight, bias), grad = layer_inputs(5)
    x.data.fill_(size)
    blind = results(fp8_linear, (x, weight, bias), grad)
    assert torch.equal(blind[0], bias.detach().expand(5, -1))
    assert bool((blind[2].abs() <= 1e-40).all())


@BOTH
@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", ["x", "weight", "grad"])
def test_non_finite_values_are_seen(block, is_stored, value, place):
    """In every gradient that is computed from them; what is not does not suffer."""
    inputs, grad = layer_inputs(5, inner=NUM_INNER * (block == "feed_forward"))
    {"x": inputs[0], "weight": inputs[1], "grad": grad}[place].data[1, 2] = value
    scales = Scales(1 if block == "linear" else 2, torch.device("cpu"))
    if is_stored:
        scales.fix(torch.full_like(scales.maxima, 2.0**-6))
    output, of_x, of_weight, *more = results(fp8_linear, inputs, grad, scales=scales)
    assert bool(output.isfinite().all()) == (place == "grad")
    if block == "linear":
        assert bool(of_x.isfinite().all()) == (place == "x")
        assert bool(of_weight.isfinite().all()) == (place == "weight")
        assert bool(more[0].isfinite().all()) == (place != "grad")
    else:
        seen = [bool(part.isfinite().all()) for part in (of_weight, *more)]
        assert not all(seen)


@BOTH
@pytest.mark.parametrize("fast", [True, False])
def test_products_keep_the_rules_of_cuda(monkeypatch, block, fast):
    calls, scaled_mm = [], torch._scaled_mm

    def record(a, b, *scales, **options):
        assert a.stride(1) == 1  # rows are contiguous
        assert b.stride(0) == 1  # columns are contiguous
        assert not any(size % 16 for size in (a.shape[1], *b.shape))
        assert b.stride(1) % 16 == a.stride(0) % 16 == 0
        bias = options.get("bias")
        assert bias is None or bias.data_ptr() % 16 == 0
        calls.append((a.dtype, b.dtype, options["use_fast_accum"], bias is not None))
        return scaled_mm(a, b, *scales, **options)

    monkeypatch.setattr(torch, "_scaled_mm", record)
    inputs, grad = layer_inputs(5, inner=NUM_INNER * (block == "feed_forward"))
    results(fp8_linear, inputs, grad, fast=fast)
    number = 1 + (block == "feed_forward")
    forward, backward = (E4M3, E4M3, True, True), (E5M2, E4M3, fast, False)
    assert calls == [forward] * number + [backward] * 2 * number
