"""Which implementation of a kernel serves a tensor."""

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor


def implementation(kernel: str, tensor: Tensor) -> Any:
    """The module with the functions of `kernel`: Triton on CUDA tensors, plain torch elsewhere.

    Args:
        kernel: "masked_lm_head", "lamb" or "fp8_cast".
        tensor: one that the kernel will work on.
    """
    return _module(kernel if tensor.is_cuda and find_spec("triton") else f"reference.{kernel}")


@lru_cache
def _module(name: str) -> Any:
    return import_module(f"ds_bert_kernels.{name}")
