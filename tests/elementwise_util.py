"""What tests of element-wise kernels share: results with gradients, judged against float64."""

import pytest
import torch
from gpu_marks import NEEDS_GPU

EPS = 1e-12
# Device, dtype and how much worse than torch a kernel may be. The interpreter computes bf16
# wrongly, so bf16 is compiled only.
PLACES = [
    ("cpu", torch.float32, 1e-6),
    ("cpu", torch.float16, 1e-4),
    pytest.param("cuda", torch.float32, 1e-6, marks=NEEDS_GPU),
    pytest.param("cuda", torch.float16, 1e-4, marks=NEEDS_GPU),
    pytest.param("cuda", torch.bfloat16, 1e-3, marks=NEEDS_GPU),
]


def results(function, tensors, *rest):
    """Output and gradients of a function of tensors and others, for a gradient that differs."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = function(*leaves, *rest)
    weights = torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output)
    output.backward(weights.to(output.dtype))
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def errors(found, exact):
    """Relative to the norm of what is exact."""
    return [
        float((one.double() - other).norm() / other.norm().clamp(min=1e-30))
        for one, other in zip(found, exact, strict=True)
    ]


def assert_as_good_as_torch(kernel, twin, tensors, *rest, tolerance):
    """A kernel may be as wrong as plain torch in the same dtype, and a little."""
    exact = results(twin, [tensor.double() for tensor in tensors], *rest)
    plain = errors(results(twin, tensors, *rest), exact)
    found = results(kernel, tensors, *rest)
    assert [one.dtype for one in found] == [tensors[0].dtype] * len(found)
    for place, (error, allowed) in enumerate(zip(errors(found, exact), plain, strict=True)):
        assert error <= allowed + tolerance, (place, error, allowed)


def assert_same_bits_twice(kernel, tensors, *rest):
    for one, other in zip(*(results(kernel, tensors, *rest) for _ in range(2)), strict=True):
        assert torch.equal(one, other)


def assert_equal_where_finite(kernel, twin, tensors, *rest):
    """What is not finite comes out at the same places, and spoils no others."""
    for one, other in zip(
        *(results(function, tensors, *rest) for function in (kernel, twin)), strict=True
    ):
        finite = other.isfinite()
        assert torch.equal(one.isfinite(), finite)
        assert torch.allclose(one[finite], other[finite], rtol=1e-3, atol=1e-4)
