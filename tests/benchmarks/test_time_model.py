"""The time model of a GPU's step: what it counts, and what follows from that."""

import pytest
import torch
from conftest import ROOT
from roofline_cells import NETWORK, make_cell, predict
from transformers import BertConfig, BertForPreTraining

# An estimate made apart from this code, from the same bytes and speeds: ms of products, attention,
# element-wise, head, the rest; sequences/s expected and at best. 65,536 tokens, A = 4.
# The head then read the logits for its bias's gradient, and copied weight and gradient.
HEAD_COPIES = {"bert-large": 0.28, "bert-base": 0.26}  # ms: (2 N + 12 H) V bytes at 3.44 TB/s
ESTIMATED = {
    ("bert-large", 512, "real"): (174, 53, 63, 3.8, 7.8, 856, 947),
    ("bert-large", 512, "full"): (174, 61, 63, 3.8, 7.8, 413, 457),
    ("bert-large", 128, "real"): (174, 27, 63, 3.8, 7.8, 2054, 2277),
    ("bert-large", 128, "full"): (174, 25, 63, 3.8, 7.8, 1874, 2078),
    ("bert-base", 512, "real"): (52, 20, 24, 3.0, 4.7, 2500, 2790),
    ("bert-base", 512, "full"): (52, 23, 24, 3.0, 4.7, 1203, 1343),
    ("bert-base", 128, "real"): (52, 10, 24, 3.0, 4.7, 6050, 6780),
    ("bert-base", 128, "full"): (52, 9, 24, 3.0, 4.7, 5527, 6193),
}


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.mark.parametrize("case", ESTIMATED)
def test_an_estimate_by_other_hands_agrees(case):
    products, attention, elementwise, head, rest, expected, best = ESTIMATED[case]
    found = predict(make_cell(*case))
    milliseconds = {name: 1e3 * value for name, value in found.terms.items()}
    assert milliseconds["products"] == pytest.approx(products, rel=0.015)
    assert milliseconds["attention"] == pytest.approx(attention, rel=0.03, abs=0.5)
    assert milliseconds["element-wise"] == pytest.approx(elementwise, rel=0.03)
    assert milliseconds["head"] == pytest.approx(head - HEAD_COPIES[case[0]], rel=0.05)
    others = ("embeddings", "engine", "optimizer", "waits")
    assert sum(milliseconds[name] for name in others) == pytest.approx(rest, rel=0.08)
    assert found.sequences_per_second == pytest.approx(expected, rel=0.015)
    assert predict(make_cell(*case), "upper").sequences_per_second == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize("model", ["bert-base", "bert-large"])
def test_operations_are_those_of_flops(model):
    from time_model import products

    from ds_bert.model.flops import attention_flops, layer_flops, training_flops
    from ds_bert.model.pretrained import PRESETS

    config = BertConfig(**PRESETS[model], vocab_size=30_592)
    lengths, masked = [128, 512, 77], 100
    size, layers, tokens = config.hidden_size, config.num_hidden_layers, sum(lengths)
    attention = attention_flops(size, lengths)
    of_layer = products.flops(products.of_layer(tokens, size))
    assert of_layer == 3 * (layer_flops(config, lengths) - attention)
    head = products.flops(products.of_head(masked, len(lengths), size, 30_522))
    assert layers * (of_layer + 3 * attention) + head == training_flops(config, lengths, masked)


@pytest.mark.parametrize("model", ["bert-base", "bert-large"])
def test_parameters_are_those_of_the_model(model):
    from time_model.engine import parameter_count, tensor_count

    from ds_bert.model.pretrained import PRESETS

    preset = PRESETS[model]
    with torch.device("meta"):
        parameters = list(BertForPreTraining(BertConfig(**preset)).parameters())
    layers, size = preset["num_hidden_layers"], preset["hidden_size"]
    assert parameter_count(layers, size, 30_522) == sum(p.numel() for p in parameters)
    assert tensor_count(layers) == len(parameters)


def test_bytes_of_the_engine():
    from time_model.engine import ENGINES

    before, after = ENGINES["before"], ENGINES["after"]
    assert before.micro_batch_bytes == 26 and before.step_bytes + before.share_bytes == 86
    assert after.micro_batch_bytes == 10 and after.step_bytes + after.share_bytes == 54
    accumulation = 8
    waits = accumulation * before.waits + before.step_waits
    assert waits == 2 * accumulation + 2 and after.waits == after.step_waits == 0


def test_the_improved_engine_is_faster_by_what_it_no_longer_does():
    from time_model.gpus import assumed

    cell, stream = make_cell("bert-base", 128, "full"), assumed("H200", "expected").stream
    before, after = (predict(cell, engine=engine) for engine in ("before", "after"))
    fewer = 110.1e6 * ((26 - 10) + (86 - 54) / cell.accumulation) / stream
    waiting = 2 * 0.7e-3 + 5e-3 / cell.accumulation
    assert before.micro_batch - after.micro_batch == pytest.approx(fewer + waiting, rel=1e-3)


def test_what_rules():
    small = predict(make_cell("bert-large", 512, "real", num_tokens=4096))
    large = predict(make_cell("bert-large", 512, "real"))
    assert (small.ruling, large.ruling) == ("launches", "products")
    device = sum(small.terms[name] for name in ("products", "attention", "element-wise", "head"))
    host = small.micro_batch - small.terms["optimizer"]
    assert device == pytest.approx(20e-3, rel=0.1)
    assert host == pytest.approx(37e-3, rel=0.1)  # of about 900 + 1,200 launches
    many = make_cell("bert-large", 512, "real", gpus=64, accumulation=1)
    assert predict(many).ruling == "products"
    assert predict(many, network=1e9).ruling == "communication"


def test_communication_of_a_ring():
    from time_model.engine import ENGINES
    from time_model.step import communication

    engine, parameters = ENGINES["before"], 336_000_000
    assert communication(parameters, 1, engine, NETWORK) == 0
    inside = communication(parameters, 8, engine, 1e9)  # no network inside a node
    assert inside == pytest.approx(6 * parameters * 7 / 8 / 370e9 + (21 + 18) * 1e-5)
    across = communication(parameters, 64, engine, 45e9)
    assert across == pytest.approx(6 * parameters * 63 / 64 / 45e9 + (189 + 36) * 1e-5)


def test_tiles_of_a_product():
    from time_model.products import tiled

    speed, bandwidth = 792e12, 4e12
    # 132 tiles of 128 x 256 are one wave; one more column of tiles begins another.
    full = tiled(128 * 132, 256, 64, speed, 1e-6, 132, bandwidth)
    assert full == pytest.approx(2 * 128 * 132 * 256 * 64 / speed + 1e-6)
    assert tiled(128 * 132, 257, 64, speed, 1e-6, 132, bandwidth) > 1.4 * full
    # Few tiles and long sums: cut along k rather than leave 7 of 8 multiprocessors idle.
    whole = 2 * 1024 * 1024 * 65_536 / speed
    assert whole < tiled(1024, 1024, 65_536, speed, 1e-6, 132, bandwidth) < 1.2 * whole
