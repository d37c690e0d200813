"""Bias and GELU in the interpreter, or on a GPU, against float64."""

import pytest
import torch
from ds_bert_kernels.bias_gelu import bias_gelu
from ds_bert_kernels.reference import bias_gelu as reference
from elementwise_util import (
    PLACES,
    assert_as_good_as_torch,
    assert_equal_where_finite,
    assert_same_bits_twice,
    results,
)
from gpu_marks import NEEDS_GPU

TWIN = reference.bias_gelu
pytestmark = [
    pytest.mark.parametrize("approximate", ["none", "tanh"]),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of numpy in the interpreter
]


def inputs(rows, columns, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, columns, generator=generator) * 3
    bias = torch.randn(columns, generator=generator)
    return [x.to(device, dtype), bias.to(device, dtype)]


@pytest.mark.parametrize("rows, columns", [(1, 1), (2, 7), (2, 1025), (18, 20)])
@pytest.mark.parametrize("device, dtype, tolerance", PLACES)
def test_as_good_as_torch(rows, columns, device, dtype, tolerance, approximate):
    tensors = inputs(rows, columns, dtype, device)
    assert_as_good_as_torch(bias_gelu, TWIN, tensors, approximate, tolerance=tolerance)


def test_no_rows(approximate):
    output, dx, dbias = results(bias_gelu, inputs(0, 16), approximate)
    assert output.shape == dx.shape == (0, 16)
    assert not dbias.any()


def test_large_and_infinite_values_come_out_as_in_torch(approximate):
    x = torch.tensor([[-60000.0, -50, -6, 0, 6, 50, 60000], [1, torch.inf, torch.nan, 2, 3, 4, 5]])
    assert_equal_where_finite(bias_gelu, TWIN, [x, torch.zeros(7)], approximate)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_the_same_input_gives_the_same_bits(device, approximate):
    assert_same_bits_twice(bias_gelu, inputs(20, 65, device=device), approximate)


def test_compile_passes_through(approximate):
    compiled = torch.compile(
        lambda x, bias: bias_gelu(x, bias, approximate) * 2,
        fullgraph=True, dynamic=True, backend="aot_eager",
    )  # fmt: skip
    for rows in (3, 5):
        plain = results(lambda x, bias: bias_gelu(x, bias, approximate) * 2, inputs(rows, 24))
        for one, other in zip(results(compiled, inputs(rows, 24)), plain, strict=True):
            assert torch.equal(one, other)


def test_operators_keep_their_promises(approximate):
    tensors = [tensor.requires_grad_() for tensor in inputs(4, 12)]
    torch.library.opcheck(torch.ops.ds_bert.bias_gelu, (*tensors, approximate == "tanh"))
