"""The fused kernel serves CUDA tensors, twins in torch all others."""

from types import SimpleNamespace

import pytest
import torch
from ds_bert_kernels import dispatch, masked_lm_head_cpu, reference


@pytest.mark.parametrize(
    ("kernel", "on_cpu"), [("masked_lm_head", masked_lm_head_cpu), ("lamb", reference)]
)
def test_choice(kernel, on_cpu, monkeypatch):
    assert dispatch.implementation(kernel, torch.ones(1)) is on_cpu
    assert dispatch.implementation(kernel, torch.ones(1, device="meta")) is reference
    on_gpu = SimpleNamespace(is_cuda=True, device=SimpleNamespace(type="cuda"))
    assert dispatch.implementation(kernel, on_gpu).__name__ == f"ds_bert_kernels.{kernel}"
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert dispatch.implementation(kernel, on_gpu) is reference
