"""Embeddings, LayerNorm and dropout in the interpreter, or on a GPU, against float64."""

import pytest
import torch
from ds_bert_kernels.embeddings import embed
from ds_bert_kernels.reference import embeddings as reference
from ds_bert_kernels.reference.philox import keep_mask
from elementwise_util import PLACES, assert_as_good_as_torch, assert_same_bits_twice, results
from gpu_marks import NEEDS_GPU

SEED = torch.tensor([2**40 + 5])


def inputs(columns, num_types=2, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(columns)
    sizes = ((20, columns), (num_types, columns), (9, columns))
    tables = [torch.randn(size, generator=generator) for size in sizes]
    weight = 1 + 0.1 * torch.randn(columns, generator=generator)
    tensors = [*tables, weight, torch.randn(columns, generator=generator) * 0.1]
    return [tensor.to(device, dtype) for tensor in tensors]


def with_ids(function, rows, num_types=2, dropout=0.1, device="cpu", padding_idx=-1):
    """The function of the tables alone; words repeat, as they do in a text."""
    generator = torch.Generator().manual_seed(rows)
    ids = [
        torch.randint(limit, (rows,), generator=generator).to(device) for limit in (7, num_types, 9)
    ]
    seed = SEED.to(device)
    return lambda *tensors: function(*ids, *tensors, 1e-5, dropout, seed, padding_idx)


@pytest.mark.parametrize(
    "rows, columns, num_types", [(1, 1, 1), (5, 7, 2), (18, 20, 2), (2, 768, 1)]
)
@pytest.mark.parametrize("device, dtype, tolerance", PLACES)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_as_good_as_torch(rows, columns, num_types, device, dtype, tolerance, dropout):
    kernel, twin = (
        with_ids(function, rows, num_types, dropout, device, padding_idx=0)
        for function in (embed, reference.embed)
    )
    tensors = inputs(columns, num_types, dtype, device)
    assert_as_good_as_torch(kernel, twin, tensors, tolerance=tolerance)


def test_no_tokens():
    output, *gradients = results(with_ids(embed, 0), inputs(16))
    assert output.shape == (0, 16)
    assert not any(gradient.any() for gradient in gradients)


def test_padding_has_no_gradient():
    padded, whole = (
        results(with_ids(embed, 9, padding_idx=index), inputs(12))[1] for index in (3, -1)
    )
    assert not padded[3].any() and whole[3].any()
    padded[3] = whole[3]
    assert torch.equal(padded, whole)


def test_what_is_dropped_is_what_the_twin_drops():
    output = with_ids(embed, 8, dropout=0.3)(*inputs(500))
    assert torch.equal(output != 0, keep_mask(SEED, 8, 500, 0.3))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_the_same_input_gives_the_same_bits(device):
    rows = 20 if device == "cpu" else 70_000
    assert_same_bits_twice(with_ids(embed, rows, device=device), inputs(33, device=device))


def test_compile_passes_through():
    def function(ids, *tensors):
        return embed(ids, ids % 2, ids % 9, *tensors, 1e-5, 0.1, SEED) * 2

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (3, 5):
        ids = torch.arange(rows)
        found, plain = (
            results(lambda *tensors, f=f, ids=ids: f(ids, *tensors), inputs(24))
            for f in (compiled, function)
        )
        assert all(map(torch.equal, found, plain))


def test_operators_keep_their_promises():
    ids = torch.arange(4)
    tensors = [tensor.requires_grad_() for tensor in inputs(12)]
    torch.library.opcheck(
        torch.ops.ds_bert.embed, (ids, ids % 2, ids, *tensors, 1e-5, 0.1, SEED, -1)
    )
