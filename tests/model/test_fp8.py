"""The fp8 linear layer against float64 products of independently rounded tensors."""

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

from ds_bert.errors import ConfigurationError
from ds_bert.model.fp8 import E4M3, E5M2, check_fp8, fp8_linear

NUM_INPUTS, NUM_OUTPUTS = 64, 48
HAS_FP8_GPU = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)
NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_FP8_GPU, reason="needs a CUDA device of capability 8.9"),
]
PLACES = [
    ("cpu", torch.float32),
    ("cpu", torch.bfloat16),
    pytest.param("cuda", torch.bfloat16, marks=NEEDS_GPU),
]


def layer_inputs(*leading, device="cpu", dtype=torch.float32):
    """x, weight and bias as leaves, and an output gradient of a typical small size."""
    generator = torch.Generator().manual_seed(7)
    shapes = (*leading, NUM_INPUTS), (NUM_OUTPUTS, NUM_INPUTS), (NUM_OUTPUTS,)
    x, weight, bias, grad = (
        torch.randn(shape, generator=generator).to(device, dtype)
        for shape in (*shapes, (*leading, NUM_OUTPUTS))
    )
    return (x.requires_grad_(), weight.mul_(0.02).requires_grad_(), bias.requires_grad_()), grad / 8


def results(layer, inputs, grad):
    """The output and the gradients of x, weight and bias."""
    output = layer(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def rounded(tensor, largest, mantissa_bits, lowest_exponent):
    """A tensor in float64 after rounding to an fp8 format, from the definition of the format."""
    exact = tensor.detach().double().cpu()
    scale = (exact.abs().max().float() / largest).double()
    exponent = (exact / scale).abs().log2().floor().clamp(min=lowest_exponent)
    step = 2.0 ** (exponent - mantissa_bits)
    return (exact / scale / step).round() * step * scale


def as_e4m3(tensor):
    return rounded(tensor, 448.0, 3, -6)


def as_e5m2(tensor):
    return rounded(tensor, 57344.0, 2, -14)


@pytest.mark.parametrize("num_rows", [1, 5, 16, 37])
@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_results_are_exact_products_of_the_rounded_tensors(num_rows, device, dtype):
    inputs, grad = layer_inputs(num_rows, device=device, dtype=dtype)
    x, weight, grad8 = as_e4m3(inputs[0]), as_e4m3(inputs[1]), as_e5m2(grad)
    bias, raw_grad = inputs[2].detach().double().cpu(), grad.double().cpu()
    expected = [x @ weight.T + bias, grad8 @ weight, grad8.T @ x, raw_grad.sum(0)]
    sizes = [  # what rounding errors are relative to: the sums of absolute values
        x.abs() @ weight.abs().T + bias.abs(),
        grad8.abs() @ weight.abs(),
        grad8.abs().T @ x.abs(),
        raw_grad.abs().sum(0),
    ]
    in_fp32 = NUM_INPUTS * torch.finfo(torch.float32).eps
    tolerance = in_fp32 + (torch.finfo(dtype).eps if dtype != torch.float32 else 0)
    for found, exact, size in zip(results(fp8_linear, inputs, grad), expected, sizes, strict=True):
        assert found.dtype == dtype
        assert ((found.double().cpu() - exact).abs() <= tolerance * size).all()


def test_error_against_the_unrounded_layer_is_that_of_the_formats():
    inputs, grad = layer_inputs(37)
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    exact = results(F.linear, exact_inputs, grad.double())
    pairs = zip(results(fp8_linear, inputs, grad), exact, strict=True)
    errors = [float((found - truth).norm() / truth.norm()) for found, truth in pairs]
    # One rounding is off by at most 1/16 (E4M3) or 1/8 (E5M2), about 0.4 of it on the average.
    assert errors[0] < 0.05
    assert max(errors[1:3]) < 0.09
    assert errors[3] < 1e-6


def test_leading_dimensions_are_rows():
    inputs, grad = layer_inputs(2, 3)
    flat = (inputs[0].detach().flatten(0, 1).requires_grad_(), *inputs[1:])
    found = results(fp8_linear, inputs, grad)
    expected = results(fp8_linear, flat, grad.flatten(0, 1))
    assert found[0].shape == (2, 3, NUM_OUTPUTS)
    assert torch.equal(found[0].flatten(0, 1), expected[0])
    assert torch.equal(found[1].flatten(0, 1), expected[1])
    assert all(map(torch.equal, found[2:], expected[2:]))


def test_a_bias_may_be_left_to_a_later_kernel():
    (x, weight, bias), grad = layer_inputs(16)
    without = results(lambda x, weight: fp8_linear(x, weight, None), (x, weight), grad)
    output, dx, dweight, _ = results(fp8_linear, (x, weight, bias), grad)
    assert torch.equal(without[0] + bias, output)
    assert torch.equal(without[1], dx) and torch.equal(without[2], dweight)


def test_no_rows():
    inputs, grad = layer_inputs(0)
    found = results(fp8_linear, inputs, grad)
    assert found[0].shape == (0, NUM_OUTPUTS)
    assert found[1].shape == (0, NUM_INPUTS)
    assert not found[2].any()
    assert not found[3].any()


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


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(("place", "spoilt"), [("x", (0, 2)), ("weight", (0, 1)), ("grad", (1, 2))])
def test_non_finite_values_are_seen_in_every_result(value, place, spoilt):
    (x, weight, bias), grad = layer_inputs(5)
    {"x": x, "weight": weight, "grad": grad}[place].data[1, 2] = value
    found = results(fp8_linear, (x, weight, bias), grad)
    for index in range(3):
        seen = found[index].isfinite()
        assert not seen.any() if index in spoilt else seen.all()
    assert bool(found[3].isfinite().all()) == (place != "grad")


def test_products_keep_the_rules_of_cuda(monkeypatch):
    calls, scaled_mm = [], torch._scaled_mm

    def record(a, b, **options):
        assert a.stride(1) == 1  # rows are contiguous
        assert b.stride(0) == 1  # columns are contiguous
        assert not any(size % 16 for size in (*a.shape, *b.shape))
        calls.append((a.dtype, b.dtype, options["use_fast_accum"]))
        return scaled_mm(a, b, **options)

    monkeypatch.setattr(torch, "_scaled_mm", record)
    results(fp8_linear, *layer_inputs(5))
    assert calls == [(E4M3, E4M3, True), (E5M2, E4M3, False), (E5M2, E4M3, False)]


def test_one_compilation_serves_every_number_of_rows():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(fp8_linear, fullgraph=True, dynamic=True, backend=counter)
    for num_rows in (5, 16, 37, 48, 17):
        case = layer_inputs(num_rows)
        assert all(map(torch.equal, results(compiled, *case), results(fp8_linear, *case)))
    assert 1 <= counter.frame_count <= 2


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "sizes", "reason"),
    [
        ("cpu", None, torch.bfloat16, (32, 48), None),
        ("cpu", None, torch.float32, (32,), None),
        ("cpu", None, torch.bfloat16, (32, 24), "linear layers of size 24, expected multiples of"),
        ("cpu", None, torch.float16, (32,), "found torch.float16, expected torch.bfloat16"),
        ("mps", None, torch.bfloat16, (32,), "found device mps, expected cuda"),
        ("cuda", (8, 0), torch.bfloat16, (32,), "found CUDA capability 8.0, expected 8.9 or"),
        ("cuda", (8, 9), torch.bfloat16, (32,), None),
        ("cuda", (9, 0), torch.bfloat16, (32,), None),
        ("cuda", (9, 0), torch.float32, (32,), "found torch.float32, expected torch.bfloat16"),
    ],
)
def test_where_it_can_be_switched_on(monkeypatch, device, capability, dtype, sizes, reason):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    refused = nullcontext() if reason is None else pytest.raises(ConfigurationError, match=reason)
    with refused:
        check_fp8(torch.device(device), dtype, sizes)
