"""fp8 is given up where a layer is slower in it; on a CPU it is, emulated as it is there."""

import pytest
import torch
from transformers import BertConfig

from ds_bert.fp8.recipe import CURRENT, DELAYED, Fp8Recipe
from ds_bert.model import fp8_trial
from ds_bert.model.bert import BertForUnpaddedMaskedLM
from ds_bert.model.fp8_trial import give_up_if_slower, layer_seconds

CPU = torch.device("cpu")


@pytest.fixture(params=[DELAYED, CURRENT])
def model(request):
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2}
    config = BertConfig(vocab_size=8, num_hidden_layers=3, **sizes)
    model = BertForUnpaddedMaskedLM(config).to(torch.bfloat16).train()
    model.prepare(CPU, torch.bfloat16, fp8=Fp8Recipe(request.param))
    return model


def give_up(model):
    return give_up_if_slower(model, 64, 32, lambda: model.prepare(CPU, torch.bfloat16))


def test_times_a_layer_and_leaves_no_trace(model):
    bf16, fp8 = layer_seconds(model, 64, 32)
    assert fp8 > bf16 > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.fp8.scales.maxima.any()


def test_the_slower_one_is_given_up(model, capsys):
    state = torch.get_rng_state()
    assert give_up(model)
    assert model.fp8 is None
    assert "switched off, a layer takes" in capsys.readouterr().out
    assert torch.equal(torch.get_rng_state(), state)


def test_the_faster_one_stays(model, monkeypatch, capsys):
    monkeypatch.setattr(fp8_trial, "layer_seconds", lambda *_: (2e-3, 1e-3))
    assert not give_up(model)
    assert model.fp8 is not None
    assert "a layer takes 1.00 ms in fp8, 2.00 ms in bf16" in capsys.readouterr().out
