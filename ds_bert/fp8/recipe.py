"""What fp8 is to be like in a run, and where it can be switched on.

Activations and weights are rounded to E4M3 (finer), output gradients to E5M2 (wider range).

Source: Micikevicius et al. 2022, "FP8 Formats for Deep Learning".
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import torch
from ds_bert_kernels.reference.fp8_cast import ALIGNMENT

from ds_bert.errors import ConfigurationError

OFF, DELAYED, CURRENT = "off", "delayed", "current"
LOWEST_CAPABILITY = (8, 9)


class Fp8Recipe(NamedTuple):
    """How the layers' products run in fp8.

    Attributes:
        scaling: "delayed": a tensor's scale comes from its largest values in the steps before, so
            that it is read once; "current": from its own.
        edge_layers: so many of the first and so many of the last layers stay in bf16.
        fast_gradients: sums of the backward pass in fewer bits as well, as those of the forward
            pass are.
    """

    scaling: str = DELAYED
    edge_layers: int = 1
    fast_gradients: bool = False

    @classmethod
    def of(cls, config: Any) -> Self | None:
        """As a `ds_bert.config.TrainingConfig` says; None: fp8 is off."""
        how = (config.fp8, config.fp8_edge_layers, config.fp8_fast_gradients)
        return None if config.fp8 == OFF else cls(*how)

    @classmethod
    def read(cls, written: Any) -> Self | None:
        """From what `_asdict` gave, or from what stood there when there was one kind only."""
        if isinstance(written, dict):
            return cls(**written)
        return cls(CURRENT, edge_layers=0) if written else None

    def layers(self, num_layers: int) -> range:
        """Numbers of the layers in fp8; at least one of them, whatever `edge_layers` says."""
        edge = min(self.edge_layers, (num_layers - 1) // 2)
        return range(edge, num_layers - edge)

    def describe(self, num_layers: int) -> str:
        """In words, for the log."""
        layers = self.layers(num_layers)
        text = f"fp8 ({self.scaling} scales, layers {layers[0] + 1} to {layers[-1] + 1}"
        return text + ", fast gradients" * self.fast_gradients + ")"


def check_fp8(device: torch.device, dtype: torch.dtype, sizes: Iterable[int]) -> None:
    """Refuse what products in fp8 cannot serve.

    The CPU is allowed, in bf16 and fp32, for tests: PyTorch emulates the products there, which is
    slower than plain bf16.

    Args:
        device: where the model will be.
        dtype: of its activations and parameters.
        sizes: numbers of inputs and outputs of its linear layers.

    Raises:
        ConfigurationError: what was found and what is expected.
    """
    problem = _device_problem(device, dtype)
    odd = [size for size in sizes if size % ALIGNMENT]
    if problem is None and odd:
        problem = f"found linear layers of size {odd[0]}, expected multiples of {ALIGNMENT}"
    if problem:
        raise ConfigurationError(f"fp8: {problem}; switch it off")


def _device_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) < LOWEST_CAPABILITY:
            return f"found CUDA capability {major}.{minor}, expected 8.9 or higher (Ada, Hopper)"
    elif device.type != "cpu":
        return f"found device {device.type}, expected cuda (or cpu, slow)"
    allowed = (torch.bfloat16,) if device.type == "cuda" else (torch.bfloat16, torch.float32)
    return None if dtype in allowed else f"found {dtype}, expected torch.bfloat16"
