"""Marks of tests that need a GPU."""

import pytest
import torch

NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

HAS_FP8_GPU = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)
NEEDS_FP8_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_FP8_GPU, reason="needs a CUDA device of capability 8.9"),
]
