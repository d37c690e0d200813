"""The encoder as torch.compile sees it: one graph for all layers and all numbers of tokens."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from ds_bert_kernels.linear import linear as plain_linear
from test_attention import masked_attention
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import BertConfig, BertModel

from ds_bert.model import encoder
from ds_bert.model.attention import (
    flash_attention,
    memory_efficient_attention,
    triton_attention,
)
from ds_bert.model.encoder import Encoder
from ds_bert.model.fp8 import fp8_linear

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


MICRO_BATCHES = [(5, 20), (64, 3), (17, 41), (9, 9)]


@pytest.mark.parametrize("linear", [plain_linear, fp8_linear])
def test_compiled_layers_are_one_graph(bert, linear, counter):
    compiled = Encoder(masked_attention, linear, compiled=True)
    for lengths in MICRO_BATCHES:
        found = run(compiled, bert, make_batch(*lengths))
        expected = run(Encoder(masked_attention, linear), bert, make_batch(*lengths))
        torch.testing.assert_close(found, expected)
    assert num_graphs(counter) == 2  # the embeddings and one layer


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
