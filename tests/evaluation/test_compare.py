"""Two models on the same masks: the better one is named, and chance is not."""

from dataclasses import replace

import numpy as np
import pytest
from data_util import exit_code
from evaluation_util import evaluated
from training_util import MODEL, make_data
from transformers import BertConfig, BertForPreTraining, BertModel

from ds_bert.commands.evaluate import main
from ds_bert.dataset.store import TokenStore
from ds_bert.evaluation.compare import differences
from ds_bert.evaluation.table import _slices


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "d", golden)


@pytest.fixture(scope="module")
def items(data):
    return evaluated(TokenStore.open(data).instances(64))


def worse(items, by, spread):
    """The same model with losses of masked tokens that are larger, and as noisy as said."""
    losses = items.losses["mlm"]
    noise = np.random.default_rng(0).normal(by, spread, len(losses)).astype(np.float32)
    return replace(items, losses={**items.losses, "mlm": losses + noise})


def test_the_better_model_is_named(items):
    other = worse(items, 0.05, 0.5)
    found = differences(items, other)
    expected = np.mean(items.losses["mlm"].astype(float) - other.losses["mlm"])
    row = found["mlm_loss"]
    assert row["difference"] == pytest.approx(expected)
    low, high = row["difference_interval"]
    assert low < expected < high < 0
    assert row["p_value"] < 0.01 and row["better"] == "this"
    assert found["perplexity"]["better"] == "this"
    turned = differences(other, items)["mlm_loss"]
    assert turned["difference"] == -row["difference"] and turned["better"] == "other"


def test_chance_is_not(items):
    row = differences(items, worse(items, 0, 0.5))["mlm_loss"]
    assert row["p_value"] > 0.05 and row["better"] is None
    assert row["difference_interval"][0] < 0 < row["difference_interval"][1]


def test_more_right_is_better(items):
    right = replace(items, correct={**items.correct, "mlm": np.ones_like(items.correct["mlm"])})
    found = differences(right, items)
    assert found["mlm_accuracy"]["better"] == "this"
    assert found["nsp_accuracy"]["better"] is None and found["nsp_accuracy"]["difference"] == 0


def test_figures_that_one_has_not_are_left_out(items, data):
    other = evaluated(items.table, "mlm")
    assert set(differences(items, other)) == {"mlm_loss", "perplexity", "mlm_accuracy"}


@pytest.mark.usefixtures("one_process_group")
def test_another_model_that_cannot_be_compared(data, tmp_path, capsys):
    """It is refused before the work on the first: a plain encoder, as those for embeddings are."""
    config = BertConfig(**MODEL)
    BertForPreTraining(config).save_pretrained(tmp_path / "whole")
    BertModel(config).save_pretrained(tmp_path / "encoder")
    arguments = ["--checkpoint", tmp_path / "whole", "--data", data]
    assert exit_code(main, *arguments, "--compare", tmp_path / "encoder") == 4
    message = capsys.readouterr().err
    assert "encoder has no masked-LM head" in message and "ds-bert" in message


def test_a_class_that_lacks_a_figure_has_an_empty_place():
    """Sequences so short that none of their tokens is masked come first, and have fewer columns."""
    rows = [
        {"slice": "1 to 16", "num_sequences": 1, "nsp_loss": 0.5, "nsp_loss_interval": [0.4, 0.6]},
        {"slice": "17 to 32", "num_masked_tokens": 9, "mlm_loss": 2.0},
    ]
    rows[1]["mlm_loss_interval"] = [float("nan")] * 2
    header, first, second = _slices(rows)
    assert header == ["", "sequences", "masked tokens", "nsp_loss", "", "mlm_loss", ""]
    assert first == ["1 to 16", "1", "", "0.5000", "[0.4000, 0.6000]", "", ""]
    assert second == ["17 to 32", "", "9", "", "", "2.0000", "-"]
