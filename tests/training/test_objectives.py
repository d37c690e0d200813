"""Objectives: masked-LM alone and sentence order from data to Hugging Face folder, and another."""

import json
from typing import ClassVar

import pytest
from data_util import exit_code
from training_util import make_data, write_recipe
from transformers import (
    AutoModelForMaskedLM,
    BertForMaskedLM,
    BertForPreTraining,
    pipeline,
)

from ds_bert.commands.evaluate import main as evaluate_main
from ds_bert.commands.train import main
from ds_bert.model import bert
from ds_bert.model.batch import SEQUENCES
from ds_bert.model.bert import BertForUnpaddedPreTraining, LossSum

pytestmark = pytest.mark.usefixtures("one_process_group")
SECTION = {"max_steps": 20, "eval_interval": 10, "log_interval": 5, "max_seq_length": 32}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("pairs") / "train", golden)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("sentences") / "train", golden, objective="mlm")


@pytest.fixture(scope="module")
def ordered(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("ordered") / "train", golden, objective="mlm+sop")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sentences):
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder, sentences, section=SECTION | {"objective": "mlm"})
    assert exit_code(main, "--ds_config", recipe) == 0
    return folder / "run"


def rows_of(run, kind):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def test_there_is_one_loss(finished):
    rows = rows_of(finished, "train")
    assert {key for key in rows[0] if key.endswith("loss")} == {"loss", "mlm_loss"}
    assert rows[-1]["loss"] == rows[-1]["mlm_loss"] < rows[0]["mlm_loss"] - 0.2
    assert rows[0]["masked_share"] == pytest.approx(0.15, abs=0.02)
    assert not any("nsp" in key for row in rows_of(finished, "validation") for key in row)


def test_the_model_is_stock_bert_for_masked_lm(finished):
    folder = finished / "checkpoints/step_20/hf"
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    _, info = BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(AutoModelForMaskedLM.from_pretrained(folder), BertForMaskedLM)
    assert len(pipeline("fill-mask", model=str(folder))("the [MASK] of it")) == 5
    assert "`BertForMaskedLM` (objective mlm)" in (folder / "README.md").read_text()


def evaluate(capsys, *flags):
    capsys.readouterr()
    assert exit_code(evaluate_main, *flags) == 0
    return json.loads(capsys.readouterr().out)


def test_it_is_evaluated_without_a_flag(finished, sentences, capsys):
    found = evaluate(capsys, "--checkpoint", finished)
    assert found["data"] == str(sentences)
    last = rows_of(finished, "validation")[-1]
    assert found["mlm_loss"] == pytest.approx(last["mlm_loss"], rel=1e-6)
    assert "nsp_loss" not in found and "nsp_accuracy" not in found


def test_it_goes_on(finished, sentences, tmp_path):
    section = SECTION | {"objective": "mlm", "max_steps": 4, "init_from": str(finished)}
    recipe = write_recipe(tmp_path, sentences, section=section | {"carry_moments": True})
    assert exit_code(main, "--ds_config", recipe) == 0
    flags = ["--max_steps", 8]
    assert exit_code(main, "--ds_config", recipe, *flags) == 0
    assert rows_of(tmp_path / "run", "train")[-1]["step"] == 8


@pytest.mark.parametrize("objective", ["mlm", "mlm+nsp", "mlm+sop"])
def test_data_of_the_other_objective(objective, pairs, sentences, tmp_path, capsys):
    data = sentences if objective == "mlm+nsp" else pairs
    recipe = write_recipe(tmp_path, data, section={"objective": objective})
    assert exit_code(main, "--ds_config", recipe) == 2
    message = capsys.readouterr().err
    name = objective.replace("+", "_")
    assert f"--objective {objective} --max_seq_length 32 --output_dir {data}_{name}" in message
    assert not (tmp_path / "run").exists()


def test_an_unknown_objective(pairs, tmp_path, capsys):
    recipe = write_recipe(tmp_path, pairs, section={"objective": "mlm+clm"})
    assert exit_code(main, "--ds_config", recipe) == 2
    assert "found 'mlm+clm', expected one of mlm+nsp, mlm+sop, mlm" in capsys.readouterr().err


def test_weights_go_over_but_moments_do_not(finished, pairs, tmp_path, capsys):
    """From masked-LM alone to both: the next-sentence head begins with random weights."""
    section = {"init_from": str(finished), "max_steps": 2}
    recipe = write_recipe(tmp_path, pairs, section=section)
    assert exit_code(main, "--ds_config", recipe, "--carry_moments", "true") == 4
    assert "objective mlm instead of mlm+nsp" in capsys.readouterr().err
    assert exit_code(main, "--ds_config", recipe) == 0


def test_a_run_keeps_its_masks(pairs, tmp_path, capsys):
    """30 % masks from data made with 15 %; validation stays at 15 %."""
    section = SECTION | {"masked_lm_prob": 0.3, "max_steps": 4, "log_interval": 2}
    recipe = write_recipe(tmp_path, pairs, section=section)
    assert exit_code(main, "--ds_config", recipe) == 0
    assert "masks: 30.0% of the tokens" in capsys.readouterr().out
    rows = rows_of(tmp_path / "run", "train")
    assert [row["masked_share"] for row in rows] == pytest.approx([0.3] * 2, abs=0.02)
    (validation,) = rows_of(tmp_path / "run", "validation")
    assert validation["masked_share"] == pytest.approx(0.15, abs=0.02)
    flags = ["--max_steps", 6, "--masked_lm_prob", 0.2]
    assert exit_code(main, "--ds_config", recipe, *flags) == 4
    assert (
        "masks masked_lm_prob 0.3, max_predictions_per_seq 10 instead of" in capsys.readouterr().err
    )


def test_sentence_order(ordered, pairs, tmp_path, capsys):
    """Its losses have their own names, from the log to evaluate.py; the model is a stock BERT."""
    section = SECTION | {"objective": "mlm+sop", "masking_unit": "span"}
    recipe = write_recipe(tmp_path, ordered, section=section)
    assert exit_code(main, "--ds_config", recipe) == 0
    lines = capsys.readouterr().out
    assert " sop_acc " in lines and "sop_loss" in lines and "nsp" not in lines
    rows = rows_of(tmp_path / "run", "train")
    assert {key for key in rows[0] if key.endswith("loss")} == {"loss", "mlm_loss", "sop_loss"}
    assert rows[-1]["mlm_loss"] < rows[0]["mlm_loss"] - 0.2
    (*_, last) = rows_of(tmp_path / "run", "validation")
    found = evaluate(capsys, "--checkpoint", tmp_path / "run")
    for name in ("mlm_loss", "sop_loss", "sop_accuracy"):
        assert found[name] == pytest.approx(last[name], rel=1e-6)
    folder = tmp_path / "run/checkpoints/step_20/hf"
    _, info = BertForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert "`BertForPreTraining` (objective mlm+sop)" in (folder / "README.md").read_text()
    flags = ["--checkpoint", tmp_path / "run", "--data", pairs]
    assert exit_code(evaluate_main, *flags) == 2
    assert "trained for mlm+sop" in capsys.readouterr().err
    assert set(evaluate(capsys, *flags, "--only_mlm")) & {"nsp_loss", "sop_loss"} == set()


class WithLength(BertForUnpaddedPreTraining):
    """A third loss, over sequences."""

    objective = "mlm+nsp+length"
    losses: ClassVar[dict[str, str]] = {**BertForUnpaddedPreTraining.losses, "length": SEQUENCES}

    def forward(self, batch):
        losses = super().forward(batch)
        error = losses["nsp"].loss * 2
        return losses | {"length": LossSum(error, losses["nsp"].correct)}


def test_an_objective_is_one_class(pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(bert.OBJECTIVES, WithLength.objective, WithLength)
    section = SECTION | {"objective": WithLength.objective, "max_steps": 4, "log_interval": 2}
    recipe = write_recipe(tmp_path, pairs, section=section)
    assert exit_code(main, "--ds_config", recipe) == 0
    lines = capsys.readouterr().out
    assert " length " in lines and "length_loss" in lines
    row = rows_of(tmp_path / "run", "train")[0]
    assert row["length_loss"] == pytest.approx(2 * row["nsp_loss"])
    assert row["loss"] == pytest.approx(row["mlm_loss"] + 3 * row["nsp_loss"])
    found = evaluate(capsys, "--checkpoint", tmp_path / "run")
    assert found["length_loss"] == pytest.approx(2 * found["nsp_loss"])
