"""Optimizers by name, with the weight-decay groups of BERT."""

import difflib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from ds_bert.config import check_keys
from ds_bert.errors import ConfigurationError
from ds_bert.optim.lamb import Lamb


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split a model's trainable tensors into those with and those without weight decay.

    Args:
        model: any module; a tied tensor is counted once.
        weight_decay: coefficient of the first group.

    Returns:
        two groups {"params": tensors, "weight_decay": float}, in the model's order: all weights
        but LayerNorm's, then all biases and LayerNorm tensors, whose weight decay is 0.

    Source: google-research/bert, optimization.py (exclude_from_weight_decay).
    """
    decayed: list[Tensor] = []
    exempt: list[Tensor] = []
    seen: set[int] = set()
    for module in model.modules():
        for name, tensor in module.named_parameters(recurse=False):
            if tensor.requires_grad and id(tensor) not in seen:
                seen.add(id(tensor))
                is_exempt = name == "bias" or isinstance(module, nn.LayerNorm)
                (exempt if is_exempt else decayed).append(tensor)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, optimizer_config: dict[str, Any]) -> Lamb | AdamW:
    """Build the optimizer that a recipe's "optimizer" section names.

    Args:
        model: the model, before `deepspeed.initialize`.
        optimizer_config: {"type": "Lamb" or "AdamW", "params": {...}} with `lr` and optionally
            `betas` (0.9, 0.999), `eps` (1e-6) and `weight_decay` (0.01, not for biases and
            LayerNorm); for Lamb also the other options of `ds_bert.optim.lamb.Lamb`.

    Returns:
        the optimizer; a Lamb needs `bind()` after `deepspeed.initialize`. A state dict that is
        loaded into it brings moments and step counts; the options stay those given here.

    Raises:
        ConfigurationError: unknown type or option, or a value out of range.
    """
    name, params = check_optimizer(optimizer_config)
    groups = parameter_groups(model, params.pop("weight_decay"))
    params["betas"] = tuple(params["betas"])
    optimizer = Lamb(groups, **params) if name == "Lamb" else AdamW(groups, fused=True, **params)
    optimizer.register_load_state_dict_pre_hook(_keep_options)
    return optimizer


def check_optimizer(optimizer_config: Any) -> tuple[str, dict[str, Any]]:
    """The known type and all options, defaults filled in, of a recipe's "optimizer" section.

    Raises:
        ConfigurationError: none given, unknown type or option, or a value out of range.
    """
    if optimizer_config is None:
        raise ConfigurationError(
            'DeepSpeed configuration: no "optimizer"; give one, such as '
            '{"type": "Lamb", "params": {"lr": 6e-3, "weight_decay": 0.01}}'
        )
    check_keys(optimizer_config, ("type", "params"), "optimizer")
    name = _known_type(optimizer_config.get("type"))
    return name, {**_DEFAULTS, **_checked(name, optimizer_config.get("params", {}))}


def _keep_options(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Without it, torch would silently go on with the options that the checkpoint was made with."""
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    pairs = zip(state_dict["param_groups"], own, strict=True)
    return {**state_dict, "param_groups": [{**saved, **options} for saved, options in pairs]}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_betas(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(_is_number(beta) and 0 <= beta < 1 for beta in value)
    )


def _is_limit(value: Any) -> bool:
    return value is None or (_is_number(value) and value > 0)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_DEFAULTS = {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}
_Rule = tuple[Callable[[Any], bool], str]
_COMMON: dict[str, _Rule] = {
    "lr": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "betas": (_is_betas, "two numbers from 0 up to, but not including, 1"),
    "eps": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "weight_decay": (lambda value: _is_number(value) and value >= 0, "a number of at least 0"),
}
_RULES: dict[str, dict[str, _Rule]] = {
    "AdamW": _COMMON,
    "Lamb": {
        **_COMMON,
        "bias_correction": (_is_flag, "true or false"),
        "min_trust_ratio": (_is_limit, "a number above 0, or null"),
        "max_trust_ratio": (_is_limit, "a number above 0, or null"),
        "adapt_without_decay": (_is_flag, "true or false"),
        "pre_normalize_gradients": (_is_flag, "true or false"),
    },
}


def _known_type(name: Any) -> str:
    if name in _RULES:
        return name
    lower = {known.lower(): known for known in _RULES}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1)
    hint = f'did you mean "{lower[near[0]]}"?' if near else f"known: {', '.join(_RULES)}"
    raise ConfigurationError(f"optimizer.type: found {name!r}; {hint}")


def _checked(name: str, params: Any) -> dict[str, Any]:
    rules = _RULES[name]
    check_keys(params, rules, f"optimizer.params of {name}")
    if "lr" not in params:
        raise ConfigurationError("optimizer.params: lr is missing; give the peak learning rate")
    for key, value in params.items():
        holds, expected = rules[key]
        if not holds(value):
            raise ConfigurationError(
                f"optimizer.params.{key}: found {value!r}, expected {expected}"
            )
    low, high = params.get("min_trust_ratio"), params.get("max_trust_ratio")
    if low is not None and high is not None and low > high:
        raise ConfigurationError(f"min_trust_ratio {low} is above max_trust_ratio {high}")
    return params
