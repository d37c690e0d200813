"""The mean of checkpoints: exact, tied, evaluated like any model, and of one model only."""

import json

import pytest
import torch
from data_util import exit_code
from export_util import data_of, make_run, weights_of
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining

from ds_bert.commands import evaluate
from ds_bert.commands.average_checkpoints import main


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return data_of(tmp_path_factory.mktemp("data"), golden)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    return make_run(tmp_path_factory.mktemp("run"), data, steps=(2, 4, 6))


@pytest.fixture
def average(tmp_path):
    def call(*paths, more=()):
        return exit_code(main, "--checkpoint", *paths, "--output_dir", tmp_path / "mean", *more)

    return call


def expected_mean(steps):
    models = [weights_of(step)[0] for step in steps]
    return {
        name: (sum(model[name].double() for model in models) / len(models)).float()
        for name in models[0]
    }


@pytest.mark.parametrize("steps", [(6, 4), (6, 4, 2)])
def test_the_last_checkpoints_of_a_run(run, average, tmp_path, steps):
    assert average(run, more=["--last", len(steps)]) == 0
    found, expected = load_file(tmp_path / "mean/model.safetensors"), expected_mean(steps)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "mean")
    embeddings = expected["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(model.cls.predictions.decoder.weight, embeddings), "not tied"


def test_named_checkpoints(run, average, tmp_path, capsys):
    assert average(run / "checkpoints/step_2", run) == 0
    found, expected = load_file(tmp_path / "mean/model.safetensors"), expected_mean((2, 6))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert "| at steps | 2, 6 |" in (tmp_path / "mean/README.md").read_text()
    assert "compute what ds_bert computes" in capsys.readouterr().out


def test_float64_does_not_lose_what_float32_would(run, average, tmp_path):
    """The mean of one model with itself is that model."""
    assert average(run, run, run) == 0
    found, expected = load_file(tmp_path / "mean/model.safetensors"), weights_of(6)[0]
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.usefixtures("one_process_group")
def test_evaluate_takes_it(run, data, average, tmp_path, capsys):
    assert average(run, more=["--last", 2]) == 0
    capsys.readouterr()
    line = ["--checkpoint", tmp_path / "mean", "--data", data, "--max_seq_length", 32]
    assert exit_code(evaluate.main, *line, "--max_eval_sequences", 8) == 0
    assert json.loads(capsys.readouterr().out)["num_sequences"] == 8


def test_other_sizes_are_refused(run, data, average, tmp_path, capsys):
    other = make_run(tmp_path, data, num_hidden_layers=1)
    assert average(run, other) == 4
    assert "num_hidden_layers 1 instead of 2" in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()


def test_another_activation_is_refused(run, data, average, tmp_path, capsys):
    assert average(run, make_run(tmp_path, data, hidden_act="relu")) == 4
    assert "hidden_act 'relu' instead of 'gelu'" in capsys.readouterr().err


def test_another_vocabulary_is_refused(run, average, golden, tmp_path, capsys):
    words = (golden / "vocab/uncased_vocab.txt").read_text().splitlines()
    words[900], words[901] = words[901], words[900]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    data = data_of(tmp_path, golden, vocab_file=tmp_path / "vocab.txt")
    assert average(run, make_run(tmp_path, data)) == 4
    assert "cannot be averaged" in (error := capsys.readouterr().err)
    assert "vocabulary " in error and " instead of " in error


@pytest.mark.parametrize(
    ("num_paths", "more", "message"),
    [
        (1, [], "found one --checkpoint"),
        (1, ["--last", 9], "found 3 checkpoints"),
        (1, ["--last", 1], "expected 2 or more"),
        (2, ["--last", 2], "expected one run"),
    ],
)
def test_too_few_or_unclear(run, average, tmp_path, capsys, num_paths, more, message):
    assert average(*[run] * num_paths, more=more) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
