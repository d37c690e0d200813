"""Operations of training: against known sums, and against a count of a stock model's."""

import pytest
import torch
from data_util import make_store
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

from ds_bert.model.batch import make_batch
from ds_bert.model.bert import OBJECTIVES
from ds_bert.model.flops import PEAK_TFLOPS, peak_flops, training_flops

SMALL = BertConfig(
    vocab_size=1536,
    num_hidden_layers=3,
    hidden_size=64,
    num_attention_heads=2,
    intermediate_size=192,
    attn_implementation="eager",
)


@pytest.mark.parametrize(
    ("sizes", "length", "masked", "teraflops"),
    [
        ((12, 768), 128, 20, 0.0699),
        ((12, 768), 512, 76, 0.3009),
        ((24, 1024), 128, 20, 0.2406),
        ((24, 1024), 512, 76, 1.0198),
    ],
)
def test_operations_of_a_sequence(sizes, length, masked, teraflops):
    layers, hidden_size = sizes
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=hidden_size, intermediate_size=4 * hidden_size
    )
    found = [training_flops(config, [length] * count, count * masked) for count in (1, 3)]
    assert found == pytest.approx([teraflops * 1e12, 3 * teraflops * 1e12], rel=1e-3)


def counted(model: torch.nn.Module, **inputs: torch.Tensor) -> int:
    """Operations of one sequence's forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        model(**inputs).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("pools", [True, False])
def test_as_torch_counts_a_stock_model(pools):
    """One sequence at a time, because a stock model pads; all tokens reach a stock model's head."""
    model = (BertForPreTraining if pools else BertForMaskedLM)(SMALL)
    lengths, found = [7, 40, 64], 0
    for length in lengths:
        tokens = torch.randint(SMALL.vocab_size, (1, length))
        extra = {"next_sentence_label": torch.zeros(1, dtype=torch.int64)} if pools else {}
        found += counted(model, input_ids=tokens, labels=tokens, **extra)
    binary = pools * len(lengths) * 3 * 2 * SMALL.hidden_size * 2  # the formula leaves it out
    assert found == training_flops(SMALL, lengths, sum(lengths), pools) + binary


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_models_batch(tmp_path, golden, objective):
    text, vocabulary = golden / "inputs/en_a.txt", golden / "vocab/uncased_vocab.txt"
    table = make_store(tmp_path / "data", text, vocabulary, max_seq_length=(32,)).instances(32)
    rows = torch.arange(6).numpy()
    batch = make_batch(table, rows, rows * 0, seed=1)
    with torch.device("meta"):
        model = OBJECTIVES[objective](SMALL)
    lengths, num_masked = batch.cu_seqlens.diff().tolist(), len(batch.masked_lm_positions)
    expected = training_flops(SMALL, lengths, num_masked, objective != "mlm")
    assert model.flops(batch) == model.flops(batch.padded(128)) == expected > 0


def test_peaks(monkeypatch):
    device = torch.device("cuda")
    for name, teraflops in PEAK_TFLOPS.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_flops(device) == teraflops * 1e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200 MIG 1g.18gb")
    assert peak_flops(device) is None
    assert peak_flops(torch.device("cpu")) is None
