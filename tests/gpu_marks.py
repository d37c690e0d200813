"""Marks of tests that need a GPU."""

import pytest
import torch

NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

_HAS_FP8 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)
NEEDS_FP8_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _HAS_FP8, reason="needs a CUDA device of capability 8.9"),
]
