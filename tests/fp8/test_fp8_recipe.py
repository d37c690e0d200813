"""Which layers run in fp8, and where it can be switched on."""

from contextlib import nullcontext

import pytest
import torch

from ds_bert.config import TrainingConfig
from ds_bert.errors import ConfigurationError
from ds_bert.fp8.recipe import Fp8Recipe, check_fp8


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


@pytest.mark.parametrize(
    ("edge", "num_layers", "expected"),
    [(1, 12, range(1, 11)), (2, 12, range(2, 10)), (0, 2, range(2)), (1, 2, range(2))],
)
def test_first_and_last_layers_stay_in_bf16(edge, num_layers, expected):
    assert Fp8Recipe(edge_layers=edge).layers(num_layers) == expected


def test_one_layer_at_least_is_in_fp8():
    assert all(len(Fp8Recipe(edge_layers=9).layers(number)) >= 1 for number in range(1, 30))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (True, Fp8Recipe("delayed")),
        ("true", Fp8Recipe("delayed")),
        ("delayed", Fp8Recipe("delayed")),
        ("current", Fp8Recipe("current")),
        (False, None),
        ("false", None),
        ("off", None),
    ],
)
def test_what_recipes_say(written, expected):
    """The booleans are those of recipes from before there were two kinds."""
    assert Fp8Recipe.of(TrainingConfig(fp8=written)) == expected


@pytest.mark.parametrize("wrong", ["on", 1, 1.5, [], "stored"])
def test_other_words_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="fp8"):
        TrainingConfig(fp8=wrong)


def test_what_a_capsule_says():
    recipe = Fp8Recipe("current", 2, True)
    assert Fp8Recipe.read(recipe._asdict()) == recipe
    assert Fp8Recipe.read(False) is Fp8Recipe.read(None) is None
    assert Fp8Recipe.read(True) == Fp8Recipe("current", 0), "as it was when there was but one"
