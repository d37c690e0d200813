"""One flipped bit in the weights of one rank is found, and the rank named."""

import pytest
import torch
from distributed_util import run_ranks

from ds_bert import distributed
from ds_bert.errors import RankFailed
from ds_bert.guards import agreement
from ds_bert.guards.agreement import hash_of_bits, require_equal_replicas

INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def flipped(tensor, element, bit):
    other = tensor.clone()
    integers = other.view(INTEGERS[tensor.dtype])
    width = 8 * tensor.element_size()
    integers[element] ^= 1 << bit if bit < width - 1 else -(1 << bit)
    return other


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("size", [1, 2, 5, 64, 203])
def test_every_flipped_bit_changes_the_hash(dtype, size, monkeypatch):
    monkeypatch.setattr(agreement, "_CHUNK", 24)
    tensor = torch.randn(size + 1, generator=torch.Generator().manual_seed(0)).to(dtype)[1:]
    expected = hash_of_bits(tensor)
    assert hash_of_bits(tensor.clone()) == expected, "of the values, not of where they lie"
    for element in range(size):
        for bit in range(8 * tensor.element_size()):
            assert hash_of_bits(flipped(tensor, element, bit)) != expected


def test_weights_that_change_places_are_seen():
    tensor = torch.arange(100.0)
    assert hash_of_bits(tensor) != hash_of_bits(tensor.flip(0))
    assert hash_of_bits(torch.zeros(3)) != hash_of_bits(torch.tensor([0.0, -0.0, 0.0]))


def damaged(rank, bit, samples):
    """What each rank says of weights of which `rank` has one bit flipped."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)).bfloat16()
    position = {"step": 200, "samples": 64}
    if distributed.rank() == rank:
        model[1].weight.data = flipped(model[1].weight.data.reshape(-1), 2, bit).reshape(1, 4)
        position["samples"] = samples
    try:
        require_equal_replicas(model, position)
    except RankFailed as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("ranks", "rank", "samples", "what"),
    [
        (3, None, 64, None),
        (3, 0, 64, "rank 0 ("),
        (3, 2, 64, "rank 2 ("),
        (3, 1, 72, "first in samples"),
        (2, 1, 64, "differs from rank 0, first in 1.weight"),
    ],
)
def test_the_odd_rank_is_named(ranks, rank, samples, what):
    found = run_ranks(damaged, ranks, rank, 0, samples)
    assert len(set(found)) == 1, "on all ranks"
    if what is None:
        assert found[0] is None
    else:
        assert found[0].startswith("step 200: rank ")
        assert what in found[0]
