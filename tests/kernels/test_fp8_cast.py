"""The cast to fp8 in Triton's interpreter, bit for bit, and its twin against float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from ds_bert_kernels import fp8_cast as kernel
from ds_bert_kernels.reference import fp8_cast as reference
from gpu_marks import NEEDS_FP8_GPU

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
BOTH = pytest.mark.parametrize("dtype", [E4M3, E5M2])
MODULES = pytest.mark.parametrize("module", [kernel, reference])
ONE = torch.tensor(1.0)


def numbers(*shape, dtype=torch.float32):
    """From far below to far above what fp8 holds, of both signs."""
    generator = torch.Generator().manual_seed(5)
    size = torch.exp2(torch.randint(-20, 12, shape, generator=generator).float())
    return (torch.randn(shape, generator=generator) * size).to(dtype)


def bits(tensor):
    return tensor.view(torch.uint8)


def rounded(values, dtype):
    """To the nearest number of the format in float64, ties to even, from its definition."""
    mantissa_bits, lowest, largest = (3, -6, 448.0) if dtype == E4M3 else (2, -14, 57344.0)
    exponent = values.abs().log2().floor().clamp(min=lowest)
    step = 2.0 ** (exponent - mantissa_bits)
    return ((values / step).round() * step).clamp(-largest, largest)


@MODULES
@BOTH
@pytest.mark.parametrize("num_rows", [1, 2, 127, 128, 129])
def test_rows_columns_amax_and_sums(module, dtype, num_rows):
    x, scale = numbers(num_rows, 144), torch.tensor(0.25)
    found = module.cast_to_fp8(x, scale, dtype, sums=True)
    assert torch.equal(found.rows.double(), rounded(x.double() / 0.25, dtype))
    assert found.columns.shape == (144, -(-num_rows // 16) * 16)
    assert torch.equal(bits(found.columns)[:, :num_rows], bits(found.rows).t())
    assert not bits(found.columns)[:, num_rows:].any()
    assert torch.equal(found.amax, x.abs().max())
    assert torch.equal(found.scale, scale)
    exact, size = x.double().sum(0), x.abs().double().sum(0)
    assert ((found.sums - exact).abs() <= 4e-7 * size).all()


@BOTH
def test_every_number_of_the_format_and_the_middles_between_them(dtype):
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    every = every[every.isfinite()].sort().values.unique()
    between = (every[1:] + every[:-1]) / 2
    around = [torch.nextafter(between, torch.tensor(toward)) for toward in (-1e9, 1e9)]
    x = torch.cat([every, between, *around])
    x = F.pad(x, (0, -len(x) % 16))[None]
    for module in (kernel, reference):
        found = module.cast_to_fp8(x, ONE, dtype).rows
        assert torch.equal(found.double(), rounded(x.double(), dtype))


@pytest.mark.parametrize("activation", ["none", "tanh"])
@pytest.mark.parametrize("number", [torch.float32, torch.float16])
def test_gelu_and_its_backward_pass(activation, number):
    u = (torch.randn(37, 48, generator=torch.Generator().manual_seed(1)) * 3).to(number)
    grad = torch.randn(37, 48, generator=torch.Generator().manual_seed(2)).to(number)
    exact = u.double().requires_grad_()
    value = F.gelu(exact, approximate=activation)
    (slope,) = torch.autograd.grad(value, exact, grad.double())
    cases = (
        (u, {"activation": activation}, value.detach(), E4M3),
        (grad, {"activation": activation, "inner": u, "sums": True}, slope, E5M2),
    )
    for x, options, truth, dtype in cases:
        found = kernel.cast_to_fp8(x, torch.tensor(2.0**-5), dtype, **options)
        twin = reference.cast_to_fp8(x, torch.tensor(2.0**-5), dtype, **options)
        step = 2.0**-3 if dtype == E4M3 else 2.0**-2
        for result in (found, twin):
            error = (result.rows.double() * 2.0**-5 - truth).abs()
            assert (error <= 0.51 * step * truth.abs() + 2.0**-5 * 2.0**-10).all()
            assert float(result.amax) == pytest.approx(float(truth.abs().max()), rel=1e-5)
        if "sums" in options:
            assert found.sums.dtype == number
            last = torch.finfo(number).eps
            bound = (last + 1e-6) * truth.abs().sum(0)
            assert ((found.sums - truth.sum(0)).abs() <= bound).all()


@MODULES
@BOTH
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_becomes_nan_and_nothing_else_does(module, dtype, bad):
    x = torch.ones(5, 32)
    x[3, 7] = bad
    found = module.cast_to_fp8(x, ONE, dtype, sums=True)
    wrong = torch.zeros(5, 32, dtype=torch.bool)
    wrong[3, 7] = True
    assert torch.equal(found.rows.float().isnan(), wrong)
    assert torch.equal(found.columns.float()[:, :5].isnan(), wrong.t())
    assert not found.amax.isfinite()
    assert torch.equal(~found.sums.isfinite(), wrong.any(0))


@MODULES
@BOTH
def test_too_large_becomes_the_largest(module, dtype):
    x = torch.tensor([[1e9, -1e9, 3e38, -3e38]]).repeat(1, 4)
    found = module.cast_to_fp8(x, torch.tensor(2.0**-60), dtype).rows.float()
    assert torch.equal(found, torch.finfo(dtype).max * x.sign())


@MODULES
@BOTH
@pytest.mark.parametrize("size", [0.0, 1e-42, 0.3, 447.0, 448.0, 449.0, 57344.0, 57345.0, 3e38])
def test_a_scale_of_its_own(module, dtype, size):
    x = torch.full((3, 16), size)
    found = module.cast_to_fp8(x, torch.tensor(4.0), dtype, own_scale=True)
    assert float(found.amax) == pytest.approx(size)
    scale = float(found.scale)
    assert math.frexp(scale)[0] == 0.5, "a power of two"
    if size > 1e-30:
        assert 0.5 < float(found.amax) / scale / torch.finfo(dtype).max <= 1
    else:
        assert (found.rows.float() * scale <= 1e-37).all()


@BOTH
def test_the_kernel_is_its_twin(dtype):
    """Bit for bit, whatever is asked for."""
    for number in (torch.float32, torch.float16):
        x = (numbers(70, 160) / 64).to(number)
        for options in ({"own_scale": True}, {"transpose": False}, {}):
            found = kernel.cast_to_fp8(x, torch.tensor(0.5), dtype, **options)
            twin = reference.cast_to_fp8(x, torch.tensor(0.5), dtype, **options)
            for name in ("rows", "columns"):
                assert torch.equal(bits(getattr(found, name)), bits(getattr(twin, name))), name
            assert torch.equal(found.amax, twin.amax)
            assert torch.equal(found.scale, twin.scale)


@MODULES
def test_no_rows(module):
    found = module.cast_to_fp8(torch.empty(0, 32), ONE, E4M3, sums=True)
    assert found.rows.shape == (0, 32)
    assert found.columns.shape == (32, 0)
    assert torch.equal(found.amax, torch.tensor(0.0))
    assert not found.sums.any()


def test_margin_leaves_room():
    amax = torch.tensor([448.0, 1.0, 0.0])
    plain, roomy = (kernel.scale_for(amax, E4M3, margin) for margin in (0, 2))
    assert plain.tolist()[:2] == [1.0, 2.0**-8]
    assert torch.equal(roomy[:2], 4 * plain[:2])


@BOTH
@pytest.mark.parametrize("num_rows", [pytest.param(n, marks=NEEDS_FP8_GPU) for n in (1, 129, 1000)])
def test_the_machine_rounds_as_its_twin(dtype, num_rows):
    x = (numbers(num_rows, 1024) / 64).to(torch.bfloat16)
    for options in ({"own_scale": True}, {"sums": True}, {}):
        scale = torch.tensor(0.5)
        twin = reference.cast_to_fp8(x, scale, dtype, **options)
        found = kernel.cast_to_fp8(x.cuda(), scale.cuda(), dtype, **options)
        for name in ("rows", "columns", "amax", "scale"):
            one, other = getattr(found, name).cpu(), getattr(twin, name)
            assert torch.equal(one.view(-1).view(torch.uint8), other.view(-1).view(torch.uint8))
        torch.testing.assert_close(found.sums.cpu(), twin.sums)
