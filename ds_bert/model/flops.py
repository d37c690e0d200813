"""Floating-point operations of BERT's training, and what a GPU could do at most.

Counted are matrix products only: one multiply-add is 2 operations, backward costs twice the
forward pass, nothing is computed again. Real lengths s count, not padding:

    forward = L (sum s) 2 (4 H^2 + 2 H F) + L 4 (sum s^2) H + M 2 (H^2 + H V) + B 2 H^2

for L layers, hidden size H, intermediate size F, M masked tokens, B sequences (in the last term
those that are pooled) and V entries of the vocabulary, rounded up to a multiple of 64 (30,528 for
BERT). Model FLOPs utilisation is operations per second over the peak.

Source: Chowdhery et al. 2022, "PaLM", appendix B, for the idea; the sum is BERT's.
"""

from collections.abc import Sequence

import torch
from transformers import BertConfig

# bf16 with fp32 sums, dense (half of what is given with sparsity), in TFLOP/s: NVIDIA's data
# sheets, for GeForce its architecture papers. By the whole name that torch gives the device.
PEAK_TFLOPS = {
    "NVIDIA GB200": 2500.0,
    "NVIDIA B200": 2250.0,
    "NVIDIA H200": 989.5,
    "NVIDIA H200 NVL": 835.5,
    "NVIDIA GH200 480GB": 989.5,
    "NVIDIA H100 80GB HBM3": 989.5,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H100 PCIe": 756.5,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-PCIE-40GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA A30": 165.0,
    "NVIDIA A40": 149.7,
    "NVIDIA A10": 125.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA L40": 181.0,
    "NVIDIA L4": 121.0,
    "NVIDIA RTX 6000 Ada Generation": 364.2,
    "NVIDIA RTX A6000": 154.8,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 3090": 71.0,
}


def peak_flops(device: torch.device) -> float | None:
    """Operations per second in bf16 by the data sheet; None if the device is not known."""
    if device.type != "cuda":
        return None
    peak = PEAK_TFLOPS.get(torch.cuda.get_device_name(device))
    return peak and peak * 1e12


def attention_flops(hidden_size: int, lengths: Sequence[int]) -> int:
    """Of one layer's attention, forward."""
    return 4 * sum(length**2 for length in lengths) * hidden_size


def layer_flops(config: BertConfig, lengths: Sequence[int]) -> int:
    """Of one encoder layer, forward."""
    size, inner = config.hidden_size, config.intermediate_size
    linear = 2 * (4 * size**2 + 2 * size * inner) * sum(lengths)
    return linear + attention_flops(size, lengths)


def training_flops(
    config: BertConfig, lengths: Sequence[int], num_masked: int, pools: bool = True
) -> int:
    """Of forward and backward passes over a batch of sequences.

    Args:
        config: of the model.
        lengths: tokens of each sequence, without padding.
        num_masked: masked tokens, which alone reach the masked-LM head.
        pools: whether there is a pooler, as next-sentence prediction has.
    """
    size = config.hidden_size
    vocab_size = -(-config.vocab_size // 64) * 64
    head = num_masked * 2 * (size**2 + size * vocab_size) + pools * len(lengths) * 2 * size**2
    return 3 * (config.num_hidden_layers * layer_flops(config, lengths) + head)
