"""Bytes that the casts of a layer move, counted from what its kernels are given."""

import pytest
import torch
from transformers import BertConfig, BertModel

from ds_bert.fp8.layers import Fp8Layers
from ds_bert.fp8.recipe import Fp8Recipe

kernel = pytest.importorskip("ds_bert_kernels.fp8_cast", reason="needs triton (extra dev)")
T, H = 64, 32
READ_OR_WRITTEN = {  # by argument of the kernels: under which of their constants
    "x": lambda c: True,
    "inner": lambda c: c["IS_GRADIENT"],
    "rows": lambda c: c["WRITES"],
    "columns": lambda c: c["TRANSPOSES"],
    "maxima": lambda c: True,
    "partial": lambda c: c["SUMS"],
    "totals": lambda c: c["SUMS"],
}


class Counted:
    """A kernel whose launches add up the sizes of what they read and write."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        def launch(*arguments, **constants):
            named = dict(zip(self.kernel.arg_names, arguments, strict=False))
            self.launches.append(
                sum(
                    tensor.numel() * tensor.element_size()
                    for name, tensor in named.items()
                    if name in READ_OR_WRITTEN and READ_OR_WRITTEN[name](constants)
                )
            )
            self.kernel[grid](*arguments, **constants)

        return launch


def test_bytes_of_a_token_and_launches(monkeypatch):
    """GELU, its backward pass and all gradients of biases are among them."""
    config = BertConfig(
        vocab_size=8, hidden_size=H, intermediate_size=4 * H, num_attention_heads=1,
        num_hidden_layers=1,
    )  # fmt: skip
    layer = BertModel(config).to(torch.bfloat16).encoder.layer[0]
    fp8 = Fp8Layers(Fp8Recipe(), config, torch.device("cpu"))
    fp8.scales.fix(torch.full_like(fp8.scales.maxima, 2.0**-8))
    products = fp8.of([layer])[0]
    launches = []
    for name in ("_cast_tile", "_put_together"):
        monkeypatch.setattr(kernel, name, Counted(getattr(kernel, name), launches))
    monkeypatch.setattr("ds_bert.fp8.cast.implementation", lambda *_: kernel)
    x = torch.randn(T, H).to(torch.bfloat16).requires_grad_()
    own = layer.attention.self
    qkv = products.projections(x, own.query, own.key, own.value)
    context = products.dense(qkv[:, :H], layer.attention.output.dense)
    inner = layer.intermediate
    last = products.feed_forward(context, inner.dense, None, layer.output.dense)
    forward = sum(launches)
    last.sum().backward()
    # Of 7 H inputs: 2 bytes read, 1 + 1 written. Of 9 H gradients the same, and 4 H more that the
    # GELU was taken of. Sums and largest values of tiles are a percent or two.
    tiles = 4 / kernel.BLOCK_T * 2 * 9 * H
    assert forward / T == pytest.approx(7 * 4 * H, rel=0.01)
    assert sum(launches) / T == pytest.approx((7 * 4 + 9 * 4 + 8) * H + tiles, rel=0.02)
    assert len(launches) == 2 * 4 + 2 * 4
