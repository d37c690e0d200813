"""Fused kernels in the layers: the same results, one graph, and when they are taken or refused."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from ds_bert_kernels import bias_gelu, dropout_add_norm, embeddings
from ds_bert_kernels.reference import bias_gelu as plain_gelu
from ds_bert_kernels.reference import dropout_add_norm as plain_norms
from ds_bert_kernels.reference import embeddings as plain_embeddings
from gpu_marks import NEEDS_GPU
from test_encoder import CONFIG, MICRO_BATCHES, counter, make_batch, num_graphs, run  # noqa: F401
from transformers import BertConfig, BertModel

from ds_bert.model import bert as bert_module
from ds_bert.model import elementwise_choice
from ds_bert.model.attention import memory_efficient_attention
from ds_bert.model.bert import OBJECTIVES
from ds_bert.model.elementwise import PLAIN, Elementwise
from ds_bert.model.elementwise_choice import (
    choose_elementwise,
    embedding_candidate,
    gelu_candidate,
    norm_candidate,
)
from ds_bert.model.encoder import Encoder

CPU = torch.device("cpu")
FUSED = Elementwise(dropout_add_norm, bias_gelu.bias_gelu, embeddings.embed)
TWINS = Elementwise(plain_norms, plain_gelu.bias_gelu, plain_embeddings.embed)


def make_bert(**changes):
    torch.manual_seed(0)
    return BertModel(BertConfig(**CONFIG | changes), add_pooling_layer=False)


@pytest.mark.parametrize("elementwise", [FUSED, TWINS], ids=["kernels", "twins"])
def test_layers_compute_the_same(elementwise):
    bert = make_bert(num_hidden_layers=1).eval()
    expected = run(Encoder(), bert, make_batch(5, 9))
    found = run(Encoder(elementwise=elementwise), bert, make_batch(5, 9))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_kernels_and_twins_drop_the_same():
    bert = make_bert(num_hidden_layers=2, attention_probs_dropout_prob=0.0).train()
    outputs = []
    for elementwise in (FUSED, TWINS):
        torch.manual_seed(3)
        outputs.append(run(Encoder(elementwise=elementwise), bert, make_batch(4, 3)))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    torch.manual_seed(4)
    assert not torch.allclose(
        run(Encoder(elementwise=TWINS), bert, make_batch(4, 3))[0], outputs[0][0]
    )


def test_evaluation_draws_no_random_numbers():
    bert = make_bert(num_hidden_layers=1).eval()
    before = torch.random.get_rng_state()
    Encoder(elementwise=TWINS)(bert, make_batch(4, 3))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_fused_kernels_are_part_of_the_graph(counter):  # noqa: F811
    """Forward and backward; tensors on the meta device hold no numbers."""
    bert = make_bert(num_hidden_layers=2).train().to("meta", torch.bfloat16)
    compiled = Encoder(memory_efficient_attention, F.linear, compiled=True, elementwise=FUSED)
    for lengths in MICRO_BATCHES:
        hidden, *gradients = run(compiled, bert, make_batch(*lengths, device="meta"))
        assert hidden.shape == (sum(lengths), 32)
        assert [g.shape for g in gradients] == [p.shape for p in bert.parameters()]
    assert num_graphs(counter) == 2  # the embeddings and one layer


def test_nothing_is_tried_on_a_cpu():
    assert choose_elementwise(CPU, torch.float32, BertConfig(**CONFIG), False) == (PLAIN, [])


def test_a_model_says_what_is_fused_and_leaves_modules_to_hooks(monkeypatch):
    tried = lambda *_: (Elementwise(norms=plain_norms), ["fused GELU not used: slow"])  # noqa: E731
    monkeypatch.setattr(bert_module, "choose_elementwise", tried)
    model = OBJECTIVES["mlm"](BertConfig(**CONFIG))
    assert model.prepare(CPU, torch.float32) == [
        "looped_attention, fused norms", "fused GELU not used: slow"
    ]  # fmt: skip
    assert model.kernels == ("looped_attention", "fused norms")
    assert model.prepare(CPU, torch.float32, fused=False) == ["looped_attention"]
    assert model.kernels == ("looped_attention",)


@pytest.fixture
def trial(monkeypatch):
    """`find_problem` on a CPU, where kernels are interpreted, with times of a stopped clock."""
    monkeypatch.setattr(elementwise_choice, "_TIMED_ELEMENTS", 64)
    times = {}
    monkeypatch.setattr(elementwise_choice, "milliseconds", lambda function, _: times[function])

    def find(candidate, fused, replaced, compiled=False):
        times.update({candidate.fused: fused, candidate.replaced: replaced})
        if compiled:
            monkeypatch.setattr(elementwise_choice.torch, "compile", lambda f, **options: f)
        return elementwise_choice.find_problem(candidate, CPU, torch.float32, compiled)

    return find


CANDIDATES = {
    "norms": partial(norm_candidate, dropout_add_norm, BertConfig(**CONFIG), CPU),
    "embeddings": partial(embedding_candidate, embeddings, BertConfig(**CONFIG), CPU),
    "gelu": partial(gelu_candidate, bias_gelu, BertConfig(**CONFIG)),
}


@pytest.mark.parametrize("make", CANDIDATES.values(), ids=CANDIDATES)
def test_a_kernel_is_taken_where_it_is_right_and_faster(make, trial):
    assert trial(make(), 1.0, 2.0) is None
    assert trial(make(), 2.0, 1.5) == "2.00 ms, what it would replace 1.50 ms"


def test_a_wrong_kernel_is_refused(trial):
    right = CANDIDATES["gelu"]()
    wrong = right._replace(checked=lambda x, bias: right.twin(x, bias * 1.01))
    assert trial(wrong, 1.0, 2.0).startswith("relative error")


def test_a_kernel_that_does_not_run_is_refused(trial):
    def broken(*tensors):
        raise ValueError("no such instruction\nand more")

    candidate = CANDIDATES["norms"]()._replace(checked=broken)
    assert trial(candidate, 1.0, 2.0) == "no such instruction"


@pytest.mark.parametrize("device", [pytest.param(torch.device("cuda"), marks=NEEDS_GPU)])
def test_on_a_gpu_all_are_right_if_not_all_are_faster(device):
    config = BertConfig(hidden_size=128, num_attention_heads=2, intermediate_size=512)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        _, refused = choose_elementwise(device, dtype, config, compiled=dtype == torch.bfloat16)
        assert all("ms, what it would replace" in line for line in refused), refused


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
def test_compiled_layers_on_a_gpu_compute_the_same(device):
    torch._dynamo.reset()
    bert, batch = make_bert(num_hidden_layers=2).eval().to(device), make_batch(5, 9, device=device)
    plain, fused = (
        run(Encoder(memory_efficient_attention, F.linear, compiled, kernels), bert, batch)
        for compiled, kernels in ((False, PLAIN), (True, FUSED))
    )
    torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-3)
