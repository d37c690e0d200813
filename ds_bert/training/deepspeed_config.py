"""DeepSpeed's part of a recipe: keys checked, safe defaults filled in.

DeepSpeed itself ignores a misspelt top-level key without a word, and trains wrongly with some
combinations; both are refused here (docs/training.md, "What is refused").
"""

import copy
from typing import Any

from ds_bert.batching.equation import BatchPlan
from ds_bert.deepspeed_files.keys import MONITORS
from ds_bert.errors import ConfigurationError, require
from ds_bert.strict_json import check_keys

_PRECISION = {
    "enabled",
    "auto_cast",
    "loss_scale",
    "initial_scale_power",
    "loss_scale_window",
    "hysteresis",
    "consecutive_hysteresis",
    "min_loss_scale",
}
# None: DeepSpeed checks the inside itself, or nothing in it can change what is computed.
ALLOWED_KEYS: dict[str, set[str] | None] = {
    "train_batch_size": None,
    "train_micro_batch_size_per_gpu": None,
    "gradient_clipping": None,
    "optimizer": {"type", "params"},
    "fp16": _PRECISION,
    "bf16": {"enabled", "check_grad_overflow", "immediate_grad_update"},
    "data_types": {"grad_accum_dtype"},
    "torch_autocast": {"enabled", "dtype", "lower_precision_safe_modules"},
    "zero_optimization": {
        "stage",
        "overlap_comm",
        "reduce_scatter",
        "reduce_bucket_size",
        "allgather_partitions",
        "allgather_bucket_size",
        "contiguous_gradients",
        "round_robin_gradients",
        "use_multi_rank_bucket_allreduce",
    },
    "communication_data_type": None,
    "timers": {"throughput"},
    "prescale_gradients": None,
    "gradient_predivide_factor": None,
    "steps_per_print": None,
    "wall_clock_breakdown": None,
    "memory_breakdown": None,
    "dump_state": None,
    "comms_logger": None,
    "flops_profiler": None,
}
_ELSEWHERE = {
    "gradient_accumulation_steps": "it is derived from train_batch_size, "
    "train_micro_batch_size_per_gpu and the number of ranks",
    "scheduler": 'use lr_scheduler_type and warmup_* in the section "ds_bert"',
    **MONITORS,
}


# DeepSpeed and Python take "false" for true; only true and false are meant here.
_SWITCHES = {
    "enabled",
    "synchronized",
    "auto_cast",
    "check_grad_overflow",
    "immediate_grad_update",
    "overlap_comm",
    "reduce_scatter",
    "allgather_partitions",
    "contiguous_gradients",
    "round_robin_gradients",
    "use_multi_rank_bucket_allreduce",
    "prescale_gradients",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
}
_POSITIVE = {"steps_per_print", "reduce_bucket_size", "allgather_bucket_size"}
_MOST = 10**10  # of these; more elements than any BERT has


def check_engine_config(recipe: dict[str, Any]) -> None:
    """Refuse unknown keys and the combinations that are known to train wrongly.

    Raises:
        ConfigurationError: names the key, the reason and the cure.
    """
    for key, reason in _ELSEWHERE.items():
        if key in recipe:
            raise ConfigurationError(f'"{key}" cannot be set: {reason}')
    check_keys(recipe, ALLOWED_KEYS, "DeepSpeed configuration")
    for key, allowed in ALLOWED_KEYS.items():
        if allowed is not None and key in recipe:
            check_keys(recipe[key], allowed, f'DeepSpeed configuration, "{key}"')
    _check_values(recipe)
    _check_precision(recipe)
    if recipe.get("zero_optimization", {}).get("round_robin_gradients"):
        raise ConfigurationError(
            "zero_optimization.round_robin_gradients: true gives the optimizer wrong slices of the "
            "parameters in DeepSpeed 0.19; remove it"
        )


def _check_values(section: dict[str, Any], where: str = "") -> None:
    """Refuse switches that are neither true nor false, and numbers without a meaning."""
    for key, value in section.items():
        name = where + key
        if isinstance(value, dict):
            _check_values(value, f"{name}.")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in _SWITCHES:
            require(isinstance(value, bool), name, value, "true or false")
        elif key in _POSITIVE:
            expected = f"a number of at least 1 and at most {_MOST:,}"
            require(is_number and 1 <= value <= _MOST, name, value, expected)
        elif key == "communication_data_type":
            require(value in ("fp32", "fp16", "bf16"), name, value, "fp32, fp16 or bf16")
        elif key == "gradient_clipping":
            require(is_number and value >= 0, name, value, "a number of at least 0; 0: no clipping")


def _check_precision(recipe: dict[str, Any]) -> None:
    stage = zero_stage(recipe)
    require(stage in (0, 1), "zero_optimization.stage", stage, "1, or 0 in fp32")
    sixteen = [kind for kind in ("fp16", "bf16") if recipe.get(kind, {}).get("enabled")]
    if len(sixteen) == 2:
        raise ConfigurationError("fp16 and bf16 are both enabled; enable one of them")
    if sixteen and stage == 0:
        raise ConfigurationError(
            f"{sixteen[0]} at zero_optimization.stage 0 trains wrongly in DeepSpeed 0.19 (loss "
            "scaling and the first step); use stage 1"
        )
    accumulation = recipe.get("data_types", {}).get("grad_accum_dtype")
    is_known = accumulation in (None, "fp32", "fp16", "bf16")
    require(is_known, "data_types.grad_accum_dtype", accumulation, "fp32, fp16 or bf16")
    autocast = recipe.get("torch_autocast", {}).get("dtype", "bfloat16")
    is_known = autocast in ("bfloat16", "torch.bfloat16")
    # float16: DeepSpeed reports the norm of gradients that are still scaled.
    require(is_known, "torch_autocast.dtype", autocast, "bfloat16; for float16 enable fp16")


def zero_stage(recipe: dict[str, Any]) -> Any:
    """The ZeRO stage of a recipe; 1 where none is given."""
    return recipe.get("zero_optimization", {}).get("stage", 1)


def precision(recipe: dict[str, Any]) -> str:
    """The dtype of weights and activations: "fp32", "bf16" or "fp16"."""
    return next((k for k in ("bf16", "fp16") if recipe.get(k, {}).get("enabled")), "fp32")


def weight_dtype(recipe: dict[str, Any]) -> str:
    """The dtype of the model's weights, by torch's name."""
    return {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision(recipe)]


def activation_dtype(recipe: dict[str, Any]) -> str:
    """The dtype that the layers compute in, by torch's name."""
    autocast = recipe.get("torch_autocast", {})
    if autocast.get("enabled"):
        return autocast.get("dtype", "bfloat16").removeprefix("torch.")
    return weight_dtype(recipe)


def has_autocast(recipe: dict[str, Any]) -> bool:
    """Whether products are in another dtype than the weights."""
    return activation_dtype(recipe) != weight_dtype(recipe)


def resolve_engine_config(recipe: dict[str, Any], batch: BatchPlan) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`: derived numbers and defaults filled in.

    The optimizer is built by ds_bert and handed to DeepSpeed, so its section is taken out.
    """
    config = copy.deepcopy(recipe)
    config.pop("optimizer", None)
    config["gradient_accumulation_steps"] = batch.accumulation_steps
    config.setdefault("zero_optimization", {}).setdefault("stage", 1)
    config.setdefault("gradient_clipping", 1.0)
    config.setdefault("steps_per_print", 10**9)  # ds_bert logs itself
    # DeepSpeed's list of optimizers is short; what ZeRO asks of others: ds_bert/optim/entry.py.
    config["zero_allow_untested_optimizer"] = True
    # It waits for the device twice in every micro-batch; ds_bert measures itself.
    config.setdefault("timers", {}).setdefault("throughput", {}).setdefault("enabled", False)
    if precision(config) == "bf16":
        # Sums of many bf16 gradients lose small contributions. A single one as well, so that the
        # same optimizer serves every micro-batch; it is the faster one, too.
        config.setdefault("data_types", {}).setdefault("grad_accum_dtype", "fp32")
    if has_fp32_sums(config):
        # Else each gradient is kept until the end of the backward pass, and zeroed afterwards;
        config["bf16"].setdefault("immediate_grad_update", True)
        # and sums are rounded to bf16 before they are added over ranks.
        config.setdefault("communication_data_type", "fp32")
    return config


def has_fp32_sums(config: dict[str, Any]) -> bool:
    """Whether bf16 gradients are added up in fp32 (DeepSpeed's BF16_Optimizer)."""
    accumulation = config.get("data_types", {}).get("grad_accum_dtype")
    return precision(config) == "bf16" and accumulation == "fp32" and zero_stage(config) == 1
