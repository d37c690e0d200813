"""The fused kernel serves CUDA tensors, its plain-torch twin all others."""

from types import SimpleNamespace

import pytest
import torch
from ds_bert_kernels import dispatch


@pytest.mark.parametrize("kernel", ["masked_lm_head", "lamb", "fp8_cast"])
def test_choice(kernel, monkeypatch):
    twin = f"ds_bert_kernels.reference.{kernel}"
    assert dispatch.implementation(kernel, torch.ones(1)).__name__ == twin
    on_gpu = SimpleNamespace(is_cuda=True)
    assert dispatch.implementation(kernel, on_gpu).__name__ == f"ds_bert_kernels.{kernel}"
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert dispatch.implementation(kernel, on_gpu).__name__ == twin
