"""Fused kernels in the layers: the same results, one graph, and when they are taken or refused."""

from functools import partial

import pytest
import torch
from ds_bert_kernels import bias_gelu, dropout_add_norm, embeddings
from ds_bert_kernels.reference import bias_gelu as plain_gelu
from ds_bert_kernels.reference import dropout_add_norm as plain_norms
from ds_bert_kernels.reference import embeddings as plain_embeddings
from test_attention import masked_attention
from test_encoder import CONFIG, counter, make_batch, num_graphs, run  # noqa: F401
from transformers import BertConfig, BertModel

from ds_bert.model import elementwise_choice
from ds_bert.model.elementwise import PLAIN, Elementwise
from ds_bert.model.elementwise_choice import (
    choose_elementwise,
    embedding_candidate,
    gelu_candidate,
    norm_candidate,
)
from ds_bert.model.encoder import Encoder
from ds_bert.model.fp8 import fp8_linear

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
    bert = make_bert(num_hidden_layers=2).train()
    compiled, plain = (
        Encoder(masked_attention, fp8_linear, compiled=compiled, elementwise=FUSED)
        for compiled in (True, False)
    )
    for lengths in [(5, 2), (3, 6)]:
        results = []
        for encode in (compiled, plain):
            torch.manual_seed(1)
            results.append(run(encode, bert, make_batch(*lengths)))
        torch.testing.assert_close(*results)
    assert num_graphs(counter) == 2  # the embeddings and one layer


def test_nothing_is_tried_on_a_cpu():
    assert choose_elementwise(CPU, torch.float32, BertConfig(**CONFIG), False) == (PLAIN, [])


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
