"""Optimizers by name, with the weight-decay groups of BERT."""

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from ds_bert.errors import ConfigurationError, require
from ds_bert.optim.adam import ADAM, ADAMW
from ds_bert.optim.entry import OptimizerEntry
from ds_bert.optim.lamb import LAMB
from ds_bert.strict_json import check_keys

# By the names that recipes call them; nothing else in ds_bert names an optimizer.
OPTIMIZERS: dict[str, OptimizerEntry] = {"AdamW": ADAMW, "Adam": ADAM, "Lamb": LAMB}


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


def build_optimizer(model: nn.Module, optimizer_config: Any) -> torch.optim.Optimizer:
    """Build the optimizer that a recipe's "optimizer" section names.

    Args:
        model: the model, before `deepspeed.initialize`.
        optimizer_config: {"type": a name in OPTIMIZERS, "params": {...}} with `lr` and any other
            options of that entry.

    Returns:
        the optimizer; its entry's `bind` is to be called after `deepspeed.initialize`. A state
        dict that is loaded into it brings moments and step counts; the options stay those given
        here.

    Raises:
        ConfigurationError: unknown type or option, or a value out of range.
    """
    name, options = check_optimizer(optimizer_config)
    groups = parameter_groups(model, options.get("weight_decay", 0.0))
    optimizer = OPTIMIZERS[name].build(groups, **options)
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
    return name, _checked(name, optimizer_config.get("params", {}))


def _keep_options(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Without it, torch would silently go on with the options that the checkpoint was made with."""
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    pairs = zip(state_dict["param_groups"], own, strict=True)
    return {**state_dict, "param_groups": [{**saved, **options} for saved, options in pairs]}


def _known_type(name: Any) -> str:
    if name in OPTIMIZERS:
        return name
    lower = {known.lower(): known for known in OPTIMIZERS}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1)
    hint = f'did you mean "{lower[near[0]]}"?' if near else f"known: {', '.join(OPTIMIZERS)}"
    raise ConfigurationError(f"optimizer.type: found {name!r}; {hint}")


def _checked(name: str, params: Any) -> dict[str, Any]:
    entry = OPTIMIZERS[name]
    check_keys(params, entry.options, f"optimizer.params of {name}")
    if "lr" not in params:
        raise ConfigurationError("optimizer.params: lr is missing; give the peak learning rate")
    for key, value in params.items():
        option = entry.options[key]
        require(option.holds(value), f"optimizer.params.{key}", value, option.expected)
    options = {key: option.default for key, option in entry.options.items()} | params
    entry.check(options)
    return options
