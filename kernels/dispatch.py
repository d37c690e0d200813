"""Which implementation of a kernel serves a tensor."""

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor

_ON_CPU = {"masked_lm_head": "masked_lm_head_cpu"}  # where plain torch is not fast enough


def implementation(kernel: str, tensor: Tensor) -> Any:
    """The module with the functions of `kernel`: Triton on CUDA tensors, else its twin in torch.

    Args:
        kernel: "masked_lm_head" or "lamb".
        tensor: one that the kernel will work on.
    """
    if tensor.is_cuda and find_spec("triton"):
        return _module(kernel)
    return _module(_ON_CPU.get(kernel, "reference") if tensor.device.type == "cpu" else "reference")


@lru_cache
def _module(name: str) -> Any:
    return import_module(f"ds_bert_kernels.{name}")
