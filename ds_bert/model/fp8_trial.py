"""Whether a layer is faster in fp8 than in bf16, where it is going to run."""

import time
from collections.abc import Callable
from typing import Any

import torch

from ds_bert import distributed
from ds_bert.fp8.layers import Fp8Layers
from ds_bert.fp8.recipe import DELAYED
from ds_bert.model.bert import UnpaddedBert
from ds_bert.model.encoder import attention_length

_WARM_UP, _ROUNDS, _PASSES = 2, 3, 4  # the first pass compiles; the fastest round counts


def give_up_if_slower(
    model: UnpaddedBert, tokens: int, length: int, without: Callable[[], Any]
) -> bool:
    """Compare a layer's forward and backward pass, and switch fp8 off where it does not pay.

    Called by all ranks, which do what rank 0 finds; tells a line.

    Args:
        model: on its device, with layers in fp8.
        tokens: of a micro-batch.
        length: of its sequences, tokens.
        without: prepares the model without fp8.

    Returns:
        whether fp8 was switched off.
    """
    device = model.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        bf16, fp8 = distributed.from_rank_0(layer_seconds(model, tokens, length))
    figures = f"a layer takes {1e3 * fp8:.2f} ms in fp8, {1e3 * bf16:.2f} ms in bf16"
    if fp8 < bf16:
        distributed.log(f"{'fp8':>16}: {figures}")
        return False
    distributed.log(f"{'fp8':>16}: switched off, {figures}")
    without()
    return True


def layer_seconds(model: UnpaddedBert, tokens: int, length: int) -> tuple[float, float]:
    """Of forward and backward pass of a layer in bf16, and of one in fp8 with stored scales.

    Gradients are left nowhere, and no largest value is recorded.

    Args:
        model: on its device, with layers in fp8.
        tokens: of a micro-batch.
        length: of its sequences, tokens.
    """
    assert model.fp8 is not None
    recipe, layers = model.fp8.recipe, model.bert.encoder.layer
    number = recipe.layers(len(layers))[0]
    layer, count = layers[number], max(1, tokens // length)
    weight = layer.output.dense.weight
    kept = Fp8Layers(recipe, model.config, weight.device)
    if recipe.scaling == DELAYED:
        kept.scales.fix(torch.ones_like(kept.scales.maxima))
    hidden = torch.randn(count * length, len(weight), device=weight.device).to(weight.dtype)
    borders = length * torch.arange(count + 1, dtype=torch.int32, device=weight.device)
    leaves = [hidden.requires_grad_(), *layer.parameters()]

    def run(products: Any) -> None:
        inputs = (layer, hidden, borders, attention_length([length]), products)
        output = model._encode.layer(*inputs)
        torch.autograd.grad(output, leaves, torch.ones_like(output))

    in_fp8 = kept.of(layers)[number]
    return _seconds(lambda: run(None), weight.device), _seconds(lambda: run(in_fp8), weight.device)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Of one call, in the fastest of some rounds."""
    for _ in range(_WARM_UP):
        work()
    return min(_round(work, device) for _ in range(_ROUNDS)) / _PASSES


def _round(work: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(_PASSES):
        work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
