"""DeepSpeed's top-level keys and those of ZeRO and the precisions, as ds_bert takes them."""

from typing import Any

from ds_bert.errors import ConfigurationError

# They change nothing about what is computed here; why.
WITHOUT_EFFECT = {
    "zero_allow_untested_optimizer": "set by ds_bert",
    "zero_force_ds_cpu_optimizer": "nothing is offloaded here",
    "activation_checkpointing": "for models that call DeepSpeed's checkpointing",
    "sparse_attention": "attention is dense here, as in bing_bert without "
    "--deepspeed_sparse_attention",
    "dataloader_drop_last": "no batch is short here, epochs run into each other",
    "disable_allgather": "ZeRO always gathers",
    "vocabulary_size": "the data set's counts",
    "log_level": "ds_bert logs itself",
    "disable_python_gc": "ds_bert leaves the collector as it is",
    "autotuning": '"train_micro_batch_size_per_gpu": "auto" measures the micro-batch',
    "compile": "compile_layers in the section ds_bert",
    "checkpoint": "ds_bert writes checkpoints itself",
    "aio": "nothing is swapped to disk here",
}
# DeepSpeed's monitors know the learning rate and the loss scale, not the loss; what does.
MONITORS = {
    **{name: f"it draws no loss; --report_to {name} does" for name in ("tensorboard", "wandb")},
    "comet": "it draws no loss; --report_to tensorboard, wandb, trackio or mlflow does",
    "csv_monitor": "it has no loss; metrics.jsonl of the run has all rows",
}
# They would change what is trained: what they do, and what does that here.
NOT_OFFERED = {
    "amp": 'mixed precision by apex; write "bf16": {"enabled": true}',
    "progressive_layer_drop": "leaves layers out at random; all layers are trained here",
    "curriculum_learning": "short sequences first; run phases instead (init_from)",
    "data_efficiency": "samples and tokens by a curriculum; run phases instead (init_from)",
    "compression_training": "quantizes and prunes while training; do it afterwards",
    "quantize_training": "quantizes while training; do it afterwards",
    "eigenvalue": "guides quantize_training, which is not offered",
    "sparse_gradients": "sparse gradients of embeddings; they are dense here",
    "elasticity": "changes the batch with the number of ranks; give one train_batch_size",
    "hybrid_engine": "for generating text while training",
    "pipeline": "pipeline parallelism; every rank holds the model here",
    "tensor_parallel": "tensor parallelism; every rank holds the model here",
    "sequence_parallel_size": "sequence parallelism; every rank holds the model here",
}
_MEMORY = "saves memory and computes the same; runs without here"
_IN_ZERO = {
    "offload_optimizer": _MEMORY,
    "offload_param": _MEMORY,
    "cpu_offload": _MEMORY,
    "cpu_offload_params": _MEMORY,
    "cpu_offload_use_pin_memory": _MEMORY,
    "sub_group_size": _MEMORY,
    "elastic_checkpoint": "checkpoints are ds_bert's own",
    "load_from_fp32_weights": "checkpoints are ds_bert's own",
    "ignore_unused_parameters": "all parameters are used here",
    "legacy_stage1": "that form of stage 1 is gone from DeepSpeed",
}
_IN_PRECISION = {
    "opt_level": "for apex; DeepSpeed ignores it",
    "fp16_opt_level": "for apex; DeepSpeed ignores it",
}


def translate(recipe: dict[str, Any]) -> list[str]:
    """Rename, drop and refuse in place; returns notes.

    Raises:
        ConfigurationError: a key that would change what is trained is on.
    """
    for key, what in (NOT_OFFERED | MONITORS).items():
        if is_on(recipe.pop(key, None)):
            raise ConfigurationError(f'"{key}" is not offered ({what}); remove it')
    notes = drop(recipe, WITHOUT_EFFECT)
    notes += _zero(recipe)
    if "bfloat16" in recipe:
        recipe.setdefault("bf16", recipe.pop("bfloat16"))
    for name in ("fp16", "bf16"):
        if isinstance(recipe.get(name), dict):
            notes += drop(recipe[name], _IN_PRECISION, f"{name}.")
    for name in ("fp32_allreduce", "allreduce_always_fp32"):
        if recipe.pop(name, False):
            recipe.setdefault("communication_data_type", "fp32")
            notes.append(f'"{name}": written as "communication_data_type": "fp32"')
    if recipe.pop("gradient_allreduce_op", "mean") != "mean":
        raise ConfigurationError(
            '"gradient_allreduce_op": losses are divided by global counts here; remove it'
        )
    return notes


def is_on(value: Any) -> bool:
    """Whether a key's value switches something on; a section does unless it says enabled: false."""
    if isinstance(value, dict):
        return bool(value) and value.get("enabled", True) is not False
    return value is True or (bool(value) and value != 1)


def drop(section: dict[str, Any], reasons: dict[str, str], where: str = "") -> list[str]:
    """Take out the keys that have a reason; notes for those that are on."""
    found = [key for key in section if key in reasons]
    dropped = {key: section.pop(key) for key in found}
    return [
        f'"{where}{key}" has no effect: {reasons[key]}'
        for key, value in dropped.items()
        if is_on(value)
    ]


def _zero(recipe: dict[str, Any]) -> list[str]:
    zero = recipe.get("zero_optimization")
    if isinstance(zero, bool):  # as DeepSpeed's first tutorials write it
        recipe["zero_optimization"] = {"stage": int(zero)}
        return []
    if not isinstance(zero, dict):
        return []
    shards = {key: _MEMORY for key in zero if key.startswith("stage3_")}
    notes = drop(zero, shards | _IN_ZERO, "zero_optimization.")
    if zero.get("stage") in (2, 3):
        notes.append(f'"zero_optimization.stage" {zero["stage"]}: {_MEMORY}, at stage 1')
        zero["stage"] = 1
    return notes
