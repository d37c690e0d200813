"""Dropout, addition and LayerNorm in the interpreter, or on a GPU, against float64."""

import pytest
import torch
from ds_bert_kernels.dropout_add_norm import (
    dropout_add_layer_norm,
    dropout_add_layer_norm_twice,
)
from ds_bert_kernels.reference import dropout_add_norm as reference
from ds_bert_kernels.reference.philox import keep_mask
from elementwise_util import (
    EPS,
    PLACES,
    assert_as_good_as_torch,
    assert_equal_where_finite,
    assert_same_bits_twice,
    results,
)
from gpu_marks import NEEDS_GPU

TWIN = reference.dropout_add_layer_norm
SEED = torch.tensor([2**40 + 5])


def inputs(rows, columns, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(rows)
    x, residual = (torch.randn(rows, columns, generator=generator) for _ in range(2))
    bias, norm_bias = (torch.randn(columns, generator=generator) * 0.1 for _ in range(2))
    weight = 1 + 0.1 * torch.randn(columns, generator=generator)
    tensors = (x, bias, residual + 0.5, weight, norm_bias)
    return [tensor.to(device, dtype) for tensor in tensors]


@pytest.mark.parametrize("rows, columns", [(1, 1), (2, 7), (3, 768), (1, 1025), (18, 8)])
@pytest.mark.parametrize("device, dtype, tolerance", PLACES)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_as_good_as_torch(rows, columns, device, dtype, tolerance, dropout):
    tensors, seed = inputs(rows, columns, dtype, device), SEED.to(device)
    rest = (1e-5, dropout, seed)
    assert_as_good_as_torch(dropout_add_layer_norm, TWIN, tensors, *rest, tolerance=tolerance)


def test_without_a_bias():
    x, _, *others = inputs(5, 40)

    def of(function):
        return lambda x, *others: function(x, None, *others, EPS, 0.1, SEED)

    kernel, twin = of(dropout_add_layer_norm), of(TWIN)
    assert_as_good_as_torch(kernel, twin, [x, *others], tolerance=1e-6)

    def twice(*tensors):
        one, other = of(dropout_add_layer_norm_twice)(*tensors)
        return one + other

    found, expected = results(twice, [x, *others]), results(kernel, [x, *others])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, 2 * other)


def test_no_rows():
    output, *gradients = results(dropout_add_layer_norm, inputs(0, 16), EPS, 0.1, SEED)
    assert output.shape == (0, 16)
    assert [float(gradient.abs().sum()) for gradient in gradients] == [0.0] * 5


def test_everything_dropped():
    tensors = inputs(5, 32)
    output, dx, dbias, dresidual, *_ = results(dropout_add_layer_norm, tensors, EPS, 1.0, SEED)
    alone = torch.nn.functional.layer_norm(tensors[2], (32,), *tensors[3:], EPS)
    assert torch.allclose(output, alone, atol=1e-6)
    assert not dx.any() and not dbias.any() and dresidual.any()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("dropout", [0.1, 0.9])
def test_forward_and_backward_drop_what_the_twin_drops(device, dropout):
    seed = SEED.to(device)
    ones, zeros = torch.ones(500, device=device), torch.zeros(500, device=device)
    tensors = [ones.expand(8, -1), zeros, zeros.expand(8, -1), ones, zeros]
    output, dx, *_ = results(dropout_add_layer_norm, tensors, EPS, dropout, seed)
    kept = keep_mask(seed, 8, 500, dropout)
    assert torch.equal(output > 0, kept)
    assert torch.equal(dx != 0, kept)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy in the interpreter
def test_infinite_values_come_out_where_they_do_in_torch():
    tensors = inputs(6, 50)
    tensors[0][1, 3], tensors[0][2, 4], tensors[2][3, 5] = torch.inf, torch.nan, -torch.inf
    assert_equal_where_finite(dropout_add_layer_norm, TWIN, tensors, EPS, 0.5, SEED)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_the_same_input_gives_the_same_bits(device):
    tensors = inputs(20, 65, device=device)
    assert_same_bits_twice(dropout_add_layer_norm, tensors, EPS, 0.1, SEED.to(device))


def test_inputs_that_are_not_contiguous():
    tensors = inputs(9, 20)
    strided = [*(t.T.contiguous().T if t.dim() == 2 else t for t in tensors)]
    for one, other in zip(
        results(dropout_add_layer_norm, tensors, EPS, 0.1, SEED),
        results(dropout_add_layer_norm, strided, EPS, 0.1, SEED),
        strict=True,
    ):
        assert torch.equal(one, other)


def block(*tensors):
    """One norm after the other, as in a layer."""
    x, bias, residual, weight, norm_bias = tensors
    vectors = (weight, norm_bias, 1e-12, 0.1, SEED)
    use, skip = dropout_add_layer_norm_twice(x, bias, residual, *vectors)
    return dropout_add_layer_norm(use.sin(), bias, skip, *vectors)


def plain_block(*tensors):
    x, bias, residual, weight, norm_bias = tensors
    vectors = (weight, norm_bias, 1e-12, 0.1, SEED)
    hidden = TWIN(x, bias, residual, *vectors)
    return TWIN(hidden.sin(), bias, hidden, *vectors)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float16, 1e-4)])
def test_gradients_of_two_uses_are_added(dtype, tolerance):
    assert_as_good_as_torch(block, plain_block, inputs(3, 100, dtype), tolerance=tolerance)


def test_compile_passes_through():
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (3, 5):
        tensors = inputs(rows, 24)
        for one, other in zip(results(compiled, tensors), results(block, tensors), strict=True):
            assert torch.equal(one, other)


def test_operators_keep_their_promises():
    tensors = [tensor.requires_grad_() for tensor in inputs(4, 12)]
    torch.library.opcheck(torch.ops.ds_bert.dropout_add_layer_norm, (*tensors, EPS, 0.1, SEED))
