"""Bytes and launches of a layer with fused kernels, beside its products and its attention.

Counted, not measured: each operation of a layer of BERT-large on the meta device is seen; a fused
kernel counts what its arguments hold, since it reads or writes each element once.
"""

from collections import Counter

import pytest
import torch
from ds_bert_kernels import bias_gelu, column_sums, dropout_add_norm
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from ds_bert.model.elementwise import Elementwise
from ds_bert.model.encoder import Encoder

TOKENS, SIZE = 65536, 1024
FUSED = Elementwise(dropout_add_norm, bias_gelu.bias_gelu)
LAUNCHERS = {
    "ds_bert::dropout_add_layer_norm": dropout_add_norm.launch_forward,
    "ds_bert::dropout_add_layer_norm_backward": dropout_add_norm.launch_backward,
    "ds_bert::bias_gelu": bias_gelu.launch_forward,
    "ds_bert::bias_gelu_backward": bias_gelu.launch_backward,
}
KERNELS = {
    dropout_add_norm: ("_norm_forward", "_norm_backward"),
    bias_gelu: ("_gelu_forward", "_gelu_backward"),
    column_sums: ("_column_sums",),
}
PRODUCTS = ("aten::mm", "aten::addmm")


def size_of(tensors) -> float:
    """In units of T x H bytes."""
    held = {id(t): t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor)}
    return sum(held.values()) / (TOKENS * SIZE)


class Traffic(TorchDispatchMode):
    """What runs, as pairs of a name and its bytes; products and attention have none."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        if name in LAUNCHERS:
            return LAUNCHERS[name](*args)
        output = function(*args, **(kwargs or {}))
        is_view = any(one.alias_info for one in function._schema.returns)
        if not is_view and "empty" not in name:
            inputs = args[0] if isinstance(args[0], (list, tuple)) else args
            self.seen.append((name, 0.0 if name in PRODUCTS else size_of([*inputs, output])))
        return output


class Attention(torch.autograd.Function):
    """One operation forward, one backward, from and to packed query, key and value."""

    @staticmethod
    def forward(ctx, qkv, traffic):
        ctx.shape, ctx.traffic = qkv.shape, traffic
        traffic.seen.append(("attention", 0.0))
        return qkv.new_empty(qkv.shape[0], SIZE)

    @staticmethod
    def backward(ctx, grad):
        ctx.traffic.seen.append(("attention", 0.0))
        return grad.new_empty(ctx.shape), None


class Recorded:
    """Stands in for a Triton kernel: `kernel[grid](*arguments)`."""

    def __init__(self, name, traffic):
        self.name, self.traffic = name, traffic

    def __getitem__(self, grid):
        return self

    def __call__(self, *arguments, **constants):
        self.traffic.seen.append((self.name, size_of(arguments)))


@pytest.fixture(scope="module")
def passes():
    """What runs forward and backward."""
    traffic = Traffic()
    config = BertConfig(hidden_size=SIZE, intermediate_size=4 * SIZE, num_attention_heads=16)
    layer = BertLayer(config).to("meta", torch.bfloat16).train()
    hidden, gradient = (
        torch.empty(TOKENS, SIZE, device="meta", dtype=torch.bfloat16) for _ in range(2)
    )
    leaves = [hidden.requires_grad_(), *layer.parameters()]
    encoder = Encoder(lambda qkv, *_: Attention.apply(qkv, traffic), elementwise=FUSED)
    with pytest.MonkeyPatch.context() as patch:
        for module, names in KERNELS.items():
            for name in names:
                patch.setattr(module, name, Recorded(module.__name__ + name, traffic))
        with traffic:
            output = encoder.layer(layer, hidden, torch.empty(2, device="meta"), 512)
            forward, traffic.seen = traffic.seen, []
            torch.autograd.grad(output, leaves, gradient)
    return forward, traffic.seen


# The gradients of the layer's input through its product and its residual are added: 6. Compiled,
# the product adds, for which the addend is copied first: 4.
JOIN, COMPILED_JOIN = 6, 4


def test_bytes(passes):
    forward, backward = (sum(bytes for _, bytes in seen) for seen in passes)
    joins = [bytes for name, bytes in passes[1] if name == "aten::add"]
    assert joins == [JOIN]
    assert 32 < forward < 32.3
    assert 53 < backward - JOIN + COMPILED_JOIN < 53.5
    assert forward + backward - JOIN + COMPILED_JOIN <= 86  # of torch's compiler: 123


def test_launches(passes):
    forward, backward = (Counter(name for name, _ in seen) for seen in passes)
    assert sum(forward[name] for name in PRODUCTS) == 4
    assert sum(backward[name] for name in PRODUCTS) == 8
    # Others forward: a seed, joining weights and biases, attention, two norms, GELU.
    assert forward.total() - 4 == 7
    # Backward: two norms and GELU in two stages each, attention, a bias, an addition.
    assert backward.total() - 8 == 9
