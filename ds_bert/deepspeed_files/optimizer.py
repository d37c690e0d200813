"""The "optimizer" section of DeepSpeed files: its names, options and defaults."""

from typing import Any

from ds_bert.deepspeed_files.keys import drop, is_on
from ds_bert.errors import ConfigurationError

# DeepSpeed takes names in any case.
TYPES = {
    "adamw": "AdamW",
    "adam": "Adam",
    "fusedadam": "Adam",
    "lamb": "Lamb",
    "fusedlamb": "Lamb",
}
# Compressed optimizers, and what to use instead of each.
COMPRESSED = {"onebitadam": "Adam", "zerooneadam": "Adam", "onebitlamb": "Lamb"}
_WITHOUT_EFFECT = {
    "torch_adam": "torch's fused Adam is what runs here",
    "foreach": "the fused kernel is used",
    "fused": "the fused kernel is used",
    "set_grad_none": "ds_bert handles gradients itself",
    "fp32_optimizer_states": "moments are always fp32 here",
}
_NOT_OFFERED = {
    "amsgrad": "keeps the largest second moment; DeepSpeed's fused optimizers refuse it as well",
    "eps_inside_sqrt": "adds eps under the root; it is added to the root here",
}
# DeepSpeed's names of LAMB's options; they bring the defaults of its FusedLamb.
_COEFFICIENTS = {"min_coeff": "min_trust_ratio", "max_coeff": "max_trust_ratio"}
_FUSED_LAMB = {"eps": 1e-8, "weight_decay": 0.0, "min_trust_ratio": 0.01, "max_trust_ratio": 10.0}


def translate(recipe: dict[str, Any]) -> list[str]:
    """Write the section as ds_bert does, in place; returns notes.

    Raises:
        ConfigurationError: a compressed optimizer or an option that is not offered.
    """
    section = recipe.get("optimizer")
    if not isinstance(section, dict):
        return []
    notes = drop(section, {"legacy_fusion": "ds_bert builds the optimizer itself"}, "optimizer.")
    name, params = section.get("type"), section.get("params", {})
    known = name.lower() if isinstance(name, str) else ""
    _refuse_compressed(name, known)
    if known not in TYPES or not isinstance(params, dict):
        return notes
    section["type"], section["params"] = TYPES[known], params
    for key, what in _NOT_OFFERED.items():
        if is_on(params.pop(key, None)):
            raise ConfigurationError(f'"optimizer.params.{key}" is not offered ({what}); remove it')
    notes += drop(params, _WITHOUT_EFFECT, "optimizer.params.")
    notes += _clipping(recipe, params)
    if section["type"] == "Lamb":
        return notes + _lamb(known, params)
    if section["type"] == "AdamW" and params.pop("adam_w_mode", True) is False:
        notes.append(
            '"adam_w_mode" has no effect: the decay of AdamW is decoupled, as in DeepSpeed'
        )
    return notes


def _refuse_compressed(name: Any, known: str) -> None:
    if known in COMPRESSED:
        raise ConfigurationError(
            f'optimizer.type: found "{name}", which sends gradients as single bits once it is warm '
            "(freeze_step); it is not offered, since it does not work with ZeRO and DeepSpeed "
            f'0.19 no longer has it. Use "{COMPRESSED[known]}" with lr, betas, eps, weight_decay, '
            "bias_correction and coefficients of the same value, and remove what compresses "
            "(freeze_step, cuda_aware, comm_backend_name, coeff_beta, factor_*, var_*, "
            "local_step_*)"
        )


def _clipping(recipe: dict[str, Any], params: dict[str, Any]) -> list[str]:
    """Gradients are clipped by the engine."""
    if "max_grad_norm" not in params:
        return []
    limit = params.pop("max_grad_norm")
    if recipe.setdefault("gradient_clipping", limit) != limit:
        raise ConfigurationError(
            f'"optimizer.params.max_grad_norm" {limit} contradicts "gradient_clipping" '
            f"{recipe['gradient_clipping']}; remove max_grad_norm"
        )
    return [f'"optimizer.params.max_grad_norm": written as "gradient_clipping": {limit}']


def _lamb(known: str, params: dict[str, Any]) -> list[str]:
    renamed = {new: params.pop(old) for old, new in _COEFFICIENTS.items() if old in params}
    if known != "fusedlamb" and not renamed:
        return []
    for key, value in (_FUSED_LAMB | renamed).items():
        params.setdefault(key, value)
    notes = [
        "optimizer: DeepSpeed's FusedLamb, written as Lamb with trust ratios of "
        f"{params['min_trust_ratio']} to {params['max_trust_ratio']}, eps {params['eps']:g} and "
        f"weight_decay {params['weight_decay']:g}; exact under ZeRO"
    ]
    if params.get("bias_correction", True):
        notes.append(
            "bias is corrected inside the trust ratio (You et al.), DeepSpeed does outside"
        )
    return notes
