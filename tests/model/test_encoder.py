"""The encoder as torch.compile sees it: one graph for all layers and all numbers of tokens."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from ds_bert_kernels.reference import dropout_add_norm
from test_attention import masked_attention
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import BertConfig, BertModel

from ds_bert.fp8.layers import Fp8Layers
from ds_bert.fp8.recipe import Fp8Recipe
from ds_bert.model import encoder
from ds_bert.model.attention import (
    flash_attention,
    memory_efficient_attention,
    triton_attention,
)
from ds_bert.model.elementwise import PLAIN, Elementwise
from ds_bert.model.encoder import Encoder

CONFIG = {
    "vocab_size": 100,
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def make_batch(*lengths, device="cpu"):
    num_tokens = sum(lengths)
    borders = torch.tensor([0, *lengths]).cumsum(0)
    positions = torch.cat([torch.arange(length) for length in lengths])
    return SimpleNamespace(
        input_ids=(torch.arange(num_tokens) % 100).to(device),
        token_type_ids=(positions % 2).to(device),
        position_ids=positions.to(device),
        cu_seqlens=borders.to(device, torch.int32),
        sequence_lengths=list(lengths),
        max_length=max(lengths),
    )


@pytest.fixture
def bert():
    torch.manual_seed(0)
    return BertModel(BertConfig(**CONFIG), add_pooling_layer=False).eval()


def run(encode, bert, batch):
    bert.zero_grad()
    hidden = encode(bert, batch)
    hidden.square().sum().backward()
    return [hidden.detach(), *(p.grad.clone() for p in bert.parameters())]


@pytest.fixture
def counter(monkeypatch):
    """Counts the graphs of torch.compile, which only traces forward and backward here."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    wrap = partial(torch.compile, backend=counter)
    monkeypatch.setattr(encoder.torch, "compile", wrap)
    return counter


def num_graphs(counter):
    return sum(len(module.graph.nodes) > 0 for module in counter.graphs)


# Tokens and sequences as many as anything else in a layer, and other numbers.
MICRO_BATCHES = [(64, 32), (5, 20), (9, 9), (5, 3)]


def test_compiled_layers_are_one_graph(bert, counter):
    compiled = Encoder(masked_attention, compiled=True)
    for lengths in MICRO_BATCHES:
        found = run(compiled, bert, make_batch(*lengths))
        expected = run(Encoder(masked_attention), bert, make_batch(*lengths))
        torch.testing.assert_close(found, expected)
    assert num_graphs(counter) == 2  # the embeddings and one layer


def test_layers_in_fp8_are_one_graph_more(bert, counter):
    """Also when the first step is over and scales come from it; both record the same."""
    kept = [Fp8Layers(Fp8Recipe(), bert.config, torch.device("cpu")) for _ in range(2)]
    encoders = [
        Encoder(masked_attention, compiled=compiled, fp8=fp8)
        for compiled, fp8 in zip((True, False), kept, strict=True)
    ]
    for lengths in MICRO_BATCHES:
        found, expected = (run(encode, bert, make_batch(*lengths)) for encode in encoders)
        torch.testing.assert_close(found, expected)
        for fp8 in kept:
            fp8.scales.finish_step()
    histories = [fp8.scales.state()["history"] for fp8 in kept]
    assert histories[0][: len(MICRO_BATCHES)].all()
    torch.testing.assert_close(*histories)
    assert num_graphs(counter) == 3


def test_layers_in_fp8_are_close_to_the_others(bert):
    weight = torch.randn(25, 32)

    def gradients(fp8):
        bert.zero_grad()
        hidden = Encoder(masked_attention, fp8=fp8)(bert, make_batch(5, 20))
        (hidden * weight).sum().backward()
        return torch.cat([p.grad.flatten() for p in bert.parameters()])

    plain = gradients(None)
    recipe = Fp8Recipe(edge_layers=0)
    found = gradients(Fp8Layers(recipe, bert.config, torch.device("cpu")))
    assert 1e-3 < (found - plain).norm() / plain.norm() < 0.1


def test_fused_norms_follow_products_in_fp8(bert):
    """The products have added the biases, and give them their gradients."""
    found = [
        run(Encoder(masked_attention, elementwise=elementwise, fp8=fp8), bert, make_batch(5, 20))
        for elementwise in (PLAIN, Elementwise(norms=dropout_add_norm))
        for fp8 in [Fp8Layers(Fp8Recipe(), bert.config, torch.device("cpu"))]
    ]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_another_activation_is_not_part_of_a_cast(bert):
    bert.config.hidden_act = "relu"
    relu = BertModel(bert.config, add_pooling_layer=False).eval()
    relu.load_state_dict(bert.state_dict())
    fp8 = Fp8Layers(Fp8Recipe(), bert.config, torch.device("cpu"))
    batch = make_batch(5, 20)
    found, plain = (Encoder(masked_attention, fp8=kept)(relu, batch) for kept in (fp8, None))
    assert 1e-4 < (found - plain).norm() / plain.norm() < 0.05


@pytest.mark.parametrize("kernel", [flash_attention, memory_efficient_attention, triton_attention])
def test_attention_of_a_gpu_is_part_of_the_graph(kernel, counter):
    """With dropout, forward and backward; tensors on the meta device hold no numbers."""
    config = BertConfig(**CONFIG | {"hidden_size": 128})  # of heads of 64
    bert = BertModel(config, add_pooling_layer=False).train().to("meta", torch.bfloat16)
    compiled = Encoder(kernel, compiled=True)
    for lengths in MICRO_BATCHES:
        hidden, *gradients = run(compiled, bert, make_batch(*lengths, device="meta"))
        assert hidden.shape == (sum(lengths), 128)
        assert [g.shape for g in gradients] == [p.shape for p in bert.parameters()]
    assert num_graphs(counter) == 2


def test_plain_attention_runs_beside_compiled_layers(bert):
    """What a CUDA device without any usable kernel falls back to."""
    torch._dynamo.reset()
    batch = make_batch(5, 20)
    plain = run(Encoder(), bert, batch)
    compiled = Encoder()
    compiled._layer = torch.compile(compiled._layer, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(run(compiled, bert, batch), plain)
