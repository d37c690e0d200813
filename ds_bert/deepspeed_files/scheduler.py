"""The "scheduler" section of DeepSpeed files as fields of the section ds_bert."""

from collections.abc import Callable
from typing import Any

from ds_bert.errors import ConfigurationError, require, suggest
from ds_bert.recipes import optimizer_params
from ds_bert.strict_json import check_keys

_OWN_FIELDS = (
    *("lr_scheduler_type", "warmup_steps", "warmup_proportion", "warmup_type", "warmup_power"),
    *("warmup_min_ratio", "lr_power", "min_lr_ratio", "decay_rate", "decay_step"),
)
_WARM_UP = ("warmup_num_steps", "warmup_type", "last_batch_iteration")
_RATES = (*_WARM_UP, "warmup_min_lr", "warmup_max_lr")
_NOT_OFFERED = {
    "OneCycle": "one or more cycles of rate and momentum; for one triangle of the rate write "
    "lr_scheduler_type linear and warmup_proportion 0.5",
    "LRRangeTest": "raises the rate to find the largest that trains; try some with --max_steps",
}


def translate(recipe: dict[str, Any], section: dict[str, Any]) -> list[str]:
    """Take the section out of `recipe`, add the fields to `section`; returns notes.

    DeepSpeed makes its first two updates at one rate, so it is one update behind.

    Raises:
        ConfigurationError: not offered, contradicts the fields, or bad values.
    """
    scheduler = recipe.pop("scheduler", None)
    if not scheduler:
        return []
    check_keys(scheduler, ("type", "params"), "scheduler")
    name, params = scheduler.get("type"), scheduler.get("params", {})
    if name is None:
        return []
    require(isinstance(name, str), "scheduler.type", name, f"one of {', '.join(_SCHEDULES)}")
    given = [field for field in _OWN_FIELDS if field in section]
    if given:
        raise ConfigurationError(
            f'"scheduler" and {given[0]} (section "ds_bert") are both given; keep one'
        )
    if name in _NOT_OFFERED:
        raise ConfigurationError(f'scheduler.type "{name}" is not offered: {_NOT_OFFERED[name]}')
    if name not in _SCHEDULES:
        hint = suggest(name, _SCHEDULES)
        raise ConfigurationError(f"scheduler.type: found {name!r}; {hint}")
    fields = _SCHEDULES[name](params, recipe, section)
    section.update(fields)
    told = ", ".join(f"{key} {value}" for key, value in fields.items())
    return [f"scheduler {name}: written as {told}; the peak rate is {_peak(recipe)}"]


def _warmup_lr(params: Any, recipe: Any, section: Any) -> dict[str, Any]:
    check_keys(params, _RATES, "scheduler.params")
    ratio = _ratio(params, recipe, default=None)
    return {"lr_scheduler_type": "constant", **_warm_up(params), "warmup_min_ratio": ratio}


def _warmup_decay_lr(params: Any, recipe: Any, section: Any) -> dict[str, Any]:
    check_keys(params, (*_RATES, "total_num_steps"), "scheduler.params")
    ratio = _ratio(params, recipe, default=1e-3)
    ends = {"warmup_min_ratio": ratio, "min_lr_ratio": ratio}
    return {"lr_scheduler_type": "linear", **_total(params, section), **_warm_up(params), **ends}


def _warmup_cosine_lr(params: Any, recipe: Any, section: Any) -> dict[str, Any]:
    ratios = {"warmup_min_ratio": 0.0, "cos_min_ratio": 1e-4}
    check_keys(params, (*_WARM_UP, *ratios, "total_num_steps"), "scheduler.params")
    start, end = (params.get(key, default) for key, default in ratios.items())
    ends = {"warmup_min_ratio": start, "min_lr_ratio": end}
    return {"lr_scheduler_type": "cosine", **_total(params, section), **_warm_up(params), **ends}


_SCHEDULES: dict[str, Callable[[Any, Any, Any], dict[str, Any]]] = {
    "WarmupLR": _warmup_lr,
    "WarmupDecayLR": _warmup_decay_lr,
    "WarmupCosineLR": _warmup_cosine_lr,
}


def _warm_up(params: dict[str, Any]) -> dict[str, Any]:
    started = params.get("last_batch_iteration", -1)
    require(started == -1, "scheduler.params.last_batch_iteration", started, "-1: ds_bert resumes")
    steps, form = params.get("warmup_num_steps", 1000), params.get("warmup_type", "log")
    is_count = isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1
    require(is_count, "scheduler.params.warmup_num_steps", steps, "a whole number of at least 1")
    require(form in ("log", "linear"), "scheduler.params.warmup_type", form, "log or linear")
    return {"warmup_steps": max(2, steps), "warmup_type": form}


def _total(params: dict[str, Any], section: dict[str, Any]) -> dict[str, Any]:
    """The schedule ends with the run."""
    total, steps = params.get("total_num_steps"), section.get("max_steps")
    if total is None or total == steps:
        return {}
    if steps is not None:
        raise ConfigurationError(
            f"scheduler.params.total_num_steps {total} and max_steps {steps} differ; the schedule "
            "ends with the run here, so remove one"
        )
    return {"max_steps": total}


def _ratio(params: dict[str, Any], recipe: dict[str, Any], default: float | None) -> float:
    """Lowest by highest rate; the highest becomes the optimizer's, which DeepSpeed overwrites."""
    low, high = params.get("warmup_min_lr", 0), params.get("warmup_max_lr", default)
    rates = [("warmup_min_lr", low)] + [("warmup_max_lr", high)] * (high is not None)
    for key, value in rates:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        require(is_number, f"scheduler.params.{key}", value, "a number of at least 0")
    if high is None:
        high = _peak(recipe)
    else:
        optimizer: Any = recipe.get("optimizer")
        require(isinstance(optimizer, dict), "optimizer", optimizer, "a section beside scheduler")
        recipe["optimizer"] = {**optimizer, "params": {**optimizer_params(recipe), "lr": high}}
    expected = f"at most the peak rate ({high})"
    is_below = isinstance(high, int | float) and high > 0 and low <= high
    require(is_below, "scheduler.params.warmup_min_lr", low, expected)
    return low / high


def _peak(recipe: dict[str, Any]) -> Any:
    return optimizer_params(recipe).get("lr")
