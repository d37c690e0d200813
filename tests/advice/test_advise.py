"""The advisor: rules against published figures and arithmetic, and a recipe that train.py takes."""

import json
import math

import pytest
import torch
from data_util import exit_code
from training_util import make_data

from ds_bert.advice import hardware, rules
from ds_bert.advice.advise import advise, describe, recipe_of
from ds_bert.advice.corpus import Corpus, of_text
from ds_bert.advice.recorded import expected_loss
from ds_bert.advice.released import model_of
from ds_bert.commands.advise import main
from ds_bert.commands.train import main as train
from ds_bert.costs.hours import Speed
from ds_bert.errors import ConfigurationError

EIGHT_H100 = Speed(3e15, "by hand")


def test_repetition_as_published():
    """Muennighoff et al. 2023: 4 epochs nearly as good as new; nothing to gain beyond some 40."""
    assert rules.effective_tokens(10.0, 0.5) == 5.0
    assert 3.6 < rules.effective_tokens(1.0, 4) < 4
    gained = rules.effective_tokens(1.0, 60) - rules.effective_tokens(1.0, 40)
    assert gained < 0.1 * 20


def test_a_vocabularys_rarest_entry_is_met_a_hundred_times():
    for tokens in (5e6, 2e7):
        size = rules.vocabulary_size(tokens)
        assert tokens / (size * math.log(size)) >= 100 > tokens / ((size + 1024) * 10.5)
        assert size % 1024 == 0
    assert rules.vocabulary_size(1e12) == 32_768 and rules.vocabulary_size(100) == 1024


def test_parameters_and_operations():
    """BERT-base has 110 M, 6 operations a token for each of the 85 M in its layers, and a head."""
    assert rules.num_parameters("bert-base", 30_522) == 110_106_428
    assert rules.flops_of_token("bert-base", 30_522) == pytest.approx(5.7e8, rel=0.05)


@pytest.mark.parametrize(
    "tokens, flops, model",
    [(3e9, 1e20, "bert-base"), (2e7, 1e20, "bert-mini"), (2e7, 1e14, "bert-tiny")],
)
def test_sizes_by_text_and_time(tokens, flops, model):
    """3e9 x 15 effective tokens suffice for 20 x 335 M, but the operations do not."""
    if model == "bert-base":
        flops = 20 * 110e6 * 5.7e8 * 1.1
    assert rules.model_size(tokens, flops, 30_522) == model


def test_batches_leave_steps():
    assert [rules.batch_size(n) for n in (1e4, 2.56e6, 1e9)] == [32, 256, 4096]


def test_rates_by_width():
    assert rules.width_factor(768, 1e-4) == 1
    assert rules.width_factor(256, 1e-4) == pytest.approx(3)
    assert rules.width_factor(128, 4e-4) == pytest.approx(2.5)  # 1e-3 and no more


def test_released_models_by_language():
    assert model_of("en").name.endswith("bert-base-uncased")
    assert model_of("pt-BR").name == model_of("yo").name
    assert model_of("xx") is None and model_of(None) is None


@pytest.mark.parametrize(
    "tokens, language, text",
    [
        (1e7, "en", "go on from google-bert/bert-base-uncased"),
        (1e7, "pt", "go on from google-bert/bert-base-multilingual-cased"),
        (1e7, None, "random weights"),
        (4e9, "en", "random weights"),
    ],
)
def test_where_to_start(tokens, language, text):
    told = dict(describe(advise(Corpus("text", tokens), EIGHT_H100, True, 8, language)))
    assert told["start"].startswith(text)
    assert "not known" in told["expected loss"]


def test_rates_by_batch():
    """Four times the batch, twice the rate; a small batch keeps that of the recipe."""
    assert rules.batch_factor(1024, 256) == 2 and rules.batch_factor(32, 256) == 1
    small = advise(Corpus("text", 1e6), Speed(1e11, "by hand"), True, 1)
    rates = [recipe_of(small, length)["optimizer"]["params"]["lr"] for length in (128, 512)]
    assert (small.model, small.batch) == ("bert-tiny", 32)
    assert rates == [6e-4, 6e-5]
    goes_on = advise(Corpus("text", 1e6), Speed(1e11, "by hand"), True, 1, "en")
    rate = recipe_of(goes_on, 128)["optimizer"]["params"]["lr"]
    assert rate == pytest.approx(5e-5 * math.sqrt(32 / 256), rel=0.01)


def test_two_phases_make_one_line():
    """The second phase starts at the rate that the first ends with, and from its weights."""
    advice = advise(Corpus("text", 4e9), EIGHT_H100, True, 8)
    first, second = (recipe_of(advice, length) for length in (128, 512))
    rates = [recipe["optimizer"]["params"]["lr"] for recipe in (first, second)]
    assert rates[1] == pytest.approx(first["ds_bert"]["min_lr_ratio"] * rates[0], rel=0.01)
    assert second["ds_bert"]["init_from"] == first["ds_bert"]["output_dir"]
    steps = [recipe["ds_bert"]["max_steps"] for recipe in (first, second)]
    assert steps[0] == pytest.approx(9 * steps[1], rel=0.01)


def test_the_hours_are_used():
    """Enough text: all operations go into the sequences of both phases."""
    advice = advise(Corpus("text", 1e11), EIGHT_H100, True, 8)
    spent = sum(
        steps * advice.batch * rules.flops_of_sequence(advice.model, advice.vocab_size, length)
        for length, steps in advice.steps.items()
    )
    assert spent == pytest.approx(3e15 * 8 * 3600, rel=0.01)


def test_other_lengths_are_refused():
    with pytest.raises(ConfigurationError, match="expected 128 or 512"):
        advise(Corpus("data", 1e6, 1000, (64,)), EIGHT_H100, True, 8)


def test_losses_are_looked_up_and_not_guessed():
    run = {"num_hidden_layers": 2, "hidden_size": 128, "vocab_size": 30_000}
    run |= {"tokens": [100, 10_000], "mlm_loss": [9, 5]}
    other = {**run, "mlm_loss": [9, 7]}
    found = expected_loss([run, other], 2, 128, 30_522, 1000)
    assert (found.lowest, found.highest, found.runs) == (pytest.approx(7), pytest.approx(8), 2)
    for shape in ((2, 256, 30_522, 1000), (2, 128, 8000, 1000), (2, 128, 30_522, 20_000)):
        assert expected_loss([run], *shape) is None


def test_tokens_of_a_text(tmp_path):
    (tmp_path / "text.txt").write_text("one two three, four\n" * 1000)
    assert of_text([str(tmp_path / "text.txt")]).tokens == pytest.approx(1.1 * 5000, rel=0.01)


@pytest.mark.parametrize(
    ("half", "asked", "expected"),
    [(9.0, None, (4.5, True)), (1.0, None, (0.5, False)), (9.0, False, (0.5, False))],
)
def test_a_cpu_computes_in_what_is_faster(monkeypatch, half, asked, expected):
    """bf16 is eight times as fast where the CPU has instructions for it, elsewhere slower."""
    speeds = {torch.float32: 1.0, torch.bfloat16: half}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "_product_speed", lambda device, dtype: speeds[dtype])
    speed, in_bf16 = hardware.speed_of(None, bf16=asked)
    assert (speed.flops_per_second, in_bf16) == expected
    recipe = recipe_of(advise(Corpus("text", 1e8), speed, in_bf16, 8), 128)
    assert ("bf16" in recipe) == in_bf16


@pytest.mark.usefixtures("one_process_group")
def test_the_recipe_is_one_that_training_takes(tmp_path, golden, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = make_data(tmp_path / "data/train", golden, max_seq_length=(128,))
    assert exit_code(main, "--train_data", data, "--hours", "1", "--save_recipe", "r.json") == 0
    assert "bert-tiny" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["ds_bert"]["max_seq_length"] == 128
    assert exit_code(train, "--ds_config", "r.json", "--dry_run") == 0
    assert "bert-tiny" in capsys.readouterr().out


def test_bad_hours_are_refused(capsys):
    assert exit_code(main, "--input_file", "x", "--hours", "0") == 2
    assert "--hours" in capsys.readouterr().err
