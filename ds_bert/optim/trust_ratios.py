"""The trust ratios of a step, layer by layer."""

import math
import re
from typing import Any

_LAYER = re.compile(r"\.layer\.(\d+)\.")


def trust_ratios(engine: Any) -> dict[str, float] | None:
    """What the last step was scaled by: the geometric mean over the tensors of each layer.

    It waits for the device, so it is for steps that are logged.

    Args:
        engine: DeepSpeed's, after a step.

    Returns:
        by "embeddings", "layer 0", ... and "heads"; None for an optimizer that has none.
    """
    optimizer = engine.optimizer
    optimizer = getattr(optimizer, "optimizer", optimizer)  # inside of ZeRO's
    if not hasattr(optimizer, "trust_ratios"):
        return None
    names = {id(tensor): name for name, tensor in engine.module.named_parameters()}
    logarithms: dict[str, list[float]] = {}
    for tensor, ratio in optimizer.trust_ratios():
        if ratio > 0 and math.isfinite(ratio):
            logarithms.setdefault(_layer(names[id(tensor)]), []).append(math.log(ratio))
    return {layer: math.exp(sum(each) / len(each)) for layer, each in logarithms.items()}


def _layer(name: str) -> str:
    found = _LAYER.search(name)
    if found:
        return f"layer {found[1]}"
    return "embeddings" if ".embeddings." in name else "heads"
