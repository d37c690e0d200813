"""Dropout on a CPU: the right share, unrelated from call to call, the same after a restart."""

import pytest
import torch
from torch import nn

from ds_bert.model.dropout import dropout, replace_dropout

SIZE = 1_000_001  # odd: the last draw stands alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_share_and_scale(dtype, p):
    torch.manual_seed(1)
    found = dropout(torch.ones(SIZE, dtype=dtype), p)
    dropped = (found == 0).float().mean().item()
    assert abs(dropped - p) < 4 * (p * (1 - p) / SIZE) ** 0.5
    kept = found[found != 0]
    assert torch.equal(kept, torch.full_like(kept, 1 / (1 - p)))


def test_neighbours_and_calls_are_unrelated():
    torch.manual_seed(2)
    first, second = (dropout(torch.ones(SIZE), 0.5) > 0 for _ in range(2))
    pairs = [(first, second), *((first[:-lag], first[lag:]) for lag in (1, 2, 3, 64))]
    for a, b in pairs:
        agreement = (a == b).float().mean().item()
        assert abs(agreement - 0.5) < 4 * 0.5 / SIZE**0.5


def test_depends_on_torchs_random_state_only():
    x = torch.randn(7, 33)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = dropout(x, 0.3)
    assert not torch.equal(dropout(x, 0.3), first)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.3), first)


def test_gradient_is_dropped_where_the_output_is():
    x = torch.randn(50, 3, requires_grad=True)
    found = dropout(x.T, 0.4)  # not contiguous
    found.backward(torch.ones_like(found))
    torch.testing.assert_close(x.grad * x, found.T)


def test_nothing_to_drop():
    x = torch.randn(5)
    assert dropout(x, 0.0) is x
    assert dropout(x[:0], 0.5).shape == (0,)


def test_modules_of_a_model():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    replace_dropout(model)
    x = torch.ones(64, 4)
    assert (model(x) == 0).any()
    model.eval()
    assert torch.equal(model(x), model[0](x))
