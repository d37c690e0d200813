"""Floating-point operations of BERT's training, and what a GPU could do at most.

Counted are matrix products only: one multiply-add is 2 operations, backward costs twice the
forward pass, nothing is computed again. Real lengths s count, not padding:

    forward = L (sum s) 2 (4 H^2 + 2 H F) + L 4 (sum s^2) H + M 2 (H^2 + H V) + B 2 H^2

for L layers, hidden size H, F = 4 H, M masked tokens, B sequences and V entries of the vocabulary,
rounded up to a multiple of 64 (30,528 for BERT).
"""

from collections.abc import Sequence

import torch
from transformers import BertConfig

from ds_bert.errors import ConfigurationError
from ds_bert.model.fp8 import check_fp8

# bf16 without sparsity, NVIDIA's data sheets; by the name that torch gives the device.
PEAK_TFLOPS = {
    "NVIDIA H200": 989.5,
    "NVIDIA H100 80GB HBM3": 989.5,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
}


def peak_flops(device: torch.device) -> float | None:
    """Operations per second in bf16 by the data sheet; None if the device is not known."""
    if device.type != "cuda":
        return None
    peak = PEAK_TFLOPS.get(torch.cuda.get_device_name(device))
    return peak and peak * 1e12


def fp8_problem(config: BertConfig, device: torch.device) -> str | None:
    """Why a model's layers cannot run in fp8 there; None if they can."""
    try:
        check_fp8(device, torch.bfloat16, (config.hidden_size, config.intermediate_size))
    except ConfigurationError as error:
        return str(error)
    return None


def attention_flops(hidden_size: int, lengths: Sequence[int]) -> int:
    """Of one layer's attention, forward."""
    return 4 * sum(length**2 for length in lengths) * hidden_size


def layer_flops(config: BertConfig, lengths: Sequence[int]) -> int:
    """Of one encoder layer, forward."""
    size, inner = config.hidden_size, config.intermediate_size
    linear = 2 * (4 * size**2 + 2 * size * inner) * sum(lengths)
    return linear + attention_flops(size, lengths)


def training_flops(config: BertConfig, lengths: Sequence[int], num_masked: int) -> int:
    """Of forward and backward passes over a batch of sequences."""
    size = config.hidden_size
    vocab_size = -(-config.vocab_size // 64) * 64
    head = num_masked * 2 * (size**2 + size * vocab_size) + len(lengths) * 2 * size**2
    return 3 * (config.num_hidden_layers * layer_flops(config, lengths) + head)
