"""The cast as an operator: what compilers are told is so, and the kernel behind it."""

import pytest
import torch
from test_fp8_products import fp8_linear, layer_inputs, results

from ds_bert.fp8 import cast as module

CASES = {
    "cast": (None, False, None, True),
    "without gradients": (None, False, None, False),
    "gelu": (None, False, "none", True),
    "gradient": (None, True, None, True),
    "gradient through gelu": (torch.ones(21, 32), True, "tanh", True),
}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_shapes_dtypes_and_aliases(case, own):
    inner, *more = CASES[case]
    arguments = (torch.randn(21, 32), inner, torch.tensor(0.5), torch.tensor(own), *more)
    torch.library.opcheck(module._cast, arguments)


@pytest.mark.parametrize("inner", [0, 96])
def test_the_kernel_behind_it(monkeypatch, inner):
    kernel = pytest.importorskip("ds_bert_kernels.fp8_cast", reason="needs triton (extra dev)")
    inputs, grad = layer_inputs(21, inner=inner)
    expected = results(fp8_linear, inputs, grad)
    monkeypatch.setattr(module, "implementation", lambda *_: kernel)
    for one, other in zip(results(fp8_linear, inputs, grad), expected, strict=True):
        assert (one - other).norm() <= (1e-2 if inner else 1e-6) * other.norm()
