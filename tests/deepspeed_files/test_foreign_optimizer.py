"""Optimizer sections of DeepSpeed files: names, options and defaults of both sides."""

import pytest

from ds_bert.deepspeed_files.translate import translate
from ds_bert.errors import ConfigurationError
from ds_bert.optim.optimizers import check_optimizer

FUSED_LAMB = {"eps": 1e-8, "weight_decay": 0.0, "min_trust_ratio": 0.01, "max_trust_ratio": 10.0}


def translated(kind, **params):
    recipe = {"optimizer": {"type": kind, "params": {"lr": 1e-3, **params}}}
    recipe, _, notes = translate(recipe, {}, 1)
    return *check_optimizer(recipe["optimizer"]), recipe, notes


@pytest.mark.parametrize(
    ("kind", "params", "name", "expected", "num_notes"),
    [
        ("AdamW", {}, "AdamW", {"eps": 1e-6, "weight_decay": 0.01}, 0),
        ("adamw", {"eps": 1e-8}, "AdamW", {"eps": 1e-8}, 0),
        ("Adam", {}, "Adam", {"eps": 1e-8, "weight_decay": 0.0, "adam_w_mode": True}, 0),
        ("Adam", {"adam_w_mode": False}, "Adam", {"adam_w_mode": False}, 0),
        ("FusedAdam", {"bias_correction": False}, "Adam", {"bias_correction": False}, 0),
        ("AdamW", {"adam_w_mode": False}, "AdamW", {"bias_correction": True}, 1),
        ("AdamW", {"torch_adam": True, "adam_w_mode": True, "amsgrad": False}, "AdamW", {}, 1),
        ("Lamb", {}, "Lamb", {"eps": 1e-6, "max_trust_ratio": None}, 0),
        ("FusedLamb", {}, "Lamb", {**FUSED_LAMB, "bias_correction": True}, 2),
        ("lamb", {"max_coeff": 0.3}, "Lamb", {**FUSED_LAMB, "max_trust_ratio": 0.3}, 2),
        (
            "Lamb",
            {"weight_decay": 0.01, "bias_correction": False, "max_coeff": 0.5, "min_coeff": 0.08},
            "Lamb",
            {"min_trust_ratio": 0.08, "max_trust_ratio": 0.5, "weight_decay": 0.01, "eps": 1e-8},
            1,
        ),
    ],
)
def test_options(kind, params, name, expected, num_notes):
    found_name, found, _, notes = translated(kind, **params)
    assert found_name == name
    assert found.items() >= expected.items()
    assert len(notes) == num_notes, notes


def test_clipping_moves_to_the_engine():
    *_, recipe, notes = translated("Adam", max_grad_norm=0.5)
    assert recipe["gradient_clipping"] == 0.5
    assert notes == ['"optimizer.params.max_grad_norm": written as "gradient_clipping": 0.5']
    optimizer = {"type": "Adam", "params": {"lr": 1, "max_grad_norm": 1.0}}
    with pytest.raises(ConfigurationError, match=r"contradicts .* 2\.0; remove max_grad_norm"):
        translate({"optimizer": optimizer, "gradient_clipping": 2.0}, {}, 1)


@pytest.mark.parametrize(
    ("kind", "cure"), [("OneBitLamb", "Lamb"), ("OneBitAdam", "Adam"), ("ZeroOneAdam", "Adam")]
)
def test_compressed_optimizers_are_answered(kind, cure):
    with pytest.raises(ConfigurationError, match=f'not offered, .* Use "{cure}" with lr') as error:
        translated(kind, freeze_step=1000, cuda_aware=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "params"), [("Adam", {"amsgrad": True}), ("Lamb", {"eps_inside_sqrt": True})]
)
def test_options_that_are_not_offered(kind, params):
    (name,) = params
    with pytest.raises(ConfigurationError, match=f'params.{name}" is not offered .*; remove it'):
        translated(kind, **params)
