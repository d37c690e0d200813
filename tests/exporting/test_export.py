"""Exports are the model that was trained, or there is none."""

import json
import shutil

import pytest
import torch
from data_util import exit_code, names
from export_util import data_of, make_run, weights_of
from safetensors.torch import load_file, save_file

from ds_bert.commands.export_hf import main
from ds_bert.exporting import job


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return data_of(tmp_path_factory.mktemp("data"), golden)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    return make_run(tmp_path_factory.mktemp("run"), data)


@pytest.fixture
def export(run, tmp_path):
    def call(*more, checkpoint=run):
        line = ["--checkpoint", checkpoint, "--output_dir", tmp_path / "model", *more]
        return exit_code(main, *line)

    return call


def test_the_newest_checkpoint_is_exported_and_compared(export, tmp_path, capsys):
    assert export() == 0
    found, (expected, _) = load_file(tmp_path / "model/model.safetensors"), weights_of(4)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    shown = capsys.readouterr().out
    assert "AutoModelForPreTraining, AutoModelForMaskedLM, AutoModel compute what" in shown
    assert "BertTokenizer (fast): 0 sentences differ from ours (70 sentences" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_model_without_pooler(data, tmp_path, capsys):
    run = make_run(tmp_path, data, objective="mlm")
    assert exit_code(main, "--checkpoint", run, "--output_dir", tmp_path / "model") == 0
    assert "model: AutoModelForMaskedLM, AutoModel compute" in capsys.readouterr().out


def test_without_the_data_random_tokens_are_compared(data, tmp_path, capsys):
    run = make_run(tmp_path, data)
    record = json.loads((run / "config.json").read_text())
    record["ds_bert"] |= {"validation_data": "gone", "train_data": "gone"}
    (run / "config.json").write_text(json.dumps(record))
    assert exit_code(main, "--checkpoint", run, "--output_dir", tmp_path / "model") == 0
    shown = capsys.readouterr().out
    assert "2 sequences, 42 tokens of random tokens; its data are not in reach" in shown
    assert "words of the vocabulary" in shown


def test_data_that_were_made_anew_with_another_vocabulary(data, golden, tmp_path, capsys):
    run = make_run(tmp_path, data)
    other = data_of(tmp_path, golden, vocab_file=golden / "vocab/cased_vocab.txt")
    record = json.loads((run / "config.json").read_text())
    record["ds_bert"] |= {"validation_data": str(other), "train_data": str(other)}
    (run / "config.json").write_text(json.dumps(record))
    assert exit_code(main, "--checkpoint", run, "--output_dir", tmp_path / "model") == 0
    assert "its data are not in reach" in capsys.readouterr().out


def _changes_weights(folder):
    weights = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    weights[name][3, 5] += 0.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _lacks_a_head(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["cls.seq_relationship.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _truncates_weights(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def _sets(file, **values):
    def change(folder):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | values))

    return change


def _changes_vocabulary(folder):
    lines = (folder / "vocab.txt").read_text().splitlines()
    lines[700], lines[701] = lines[701], lines[700]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n")


def _is_cased(folder):
    """All files agree with each other, but not with the data."""
    _sets("tokenizer_config.json", do_lower_case=False)(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content))


FAULTS = {
    "one weight": (_changes_weights, "another last_hidden_state"),
    "a head": (_lacks_a_head, "1 weights missing"),
    "half a file": (_truncates_weights, "cannot load"),
    "activation": (_sets("config.json", hidden_act="relu"), "another last_hidden_state"),
    "heads": (_sets("config.json", num_attention_heads=4), "another last_hidden_state"),
    "pad": (_sets("config.json", pad_token_id=3), "pad_token_id 3 instead of 0"),
    "vocabulary": (_changes_vocabulary, "vocab.txt says sha256"),
    "casing": (_is_cased, "do_lower_case False instead of True"),
    "positions": (_sets("tokenizer_config.json", model_max_length=512), "model_max_length 512"),
    "mask": (_sets("tokenizer_config.json", mask_token="<mask>"), "mask_token '<mask>'"),
    "accents": (_sets("tokenizer_config.json", strip_accents=False), "strip_accents False"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_went_wrong_on_the_way_is_found(export, tmp_path, monkeypatch, capsys, fault):
    change, message = FAULTS[fault]
    copy = job._copy

    def copy_wrongly(source, folder):
        copy(source, folder)
        change(folder)

    monkeypatch.setattr(job, "_copy", copy_wrongly)
    assert export() == 4
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.iterdir()), "something was left"


def test_a_folder_that_is_in_use_stays(export, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.txt").write_text("mine")
    assert export() == export("--overwrite") == 2
    assert "exists" in capsys.readouterr().err
    assert names(tmp_path) == ["model", "model/mine.txt"]


def test_a_damaged_checkpoint_is_refused(run, tmp_path, capsys):
    broken = tmp_path / "step_4"
    shutil.copytree(run / "checkpoints/step_4", broken)
    _changes_weights(broken / "hf")
    assert exit_code(main, "--checkpoint", broken, "--output_dir", tmp_path / "model") == 4
    assert not (tmp_path / "model").exists()


def test_data_of_another_vocabulary(export, golden, tmp_path, capsys):
    other = data_of(tmp_path, golden, vocab_file=golden / "vocab/cased_vocab.txt")
    assert export("--data", other) == 4
    assert "has the vocabulary" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_an_export_can_be_exported_again(export, tmp_path):
    assert export() == 0
    again = ["--checkpoint", tmp_path / "model", "--output_dir", tmp_path / "again"]
    assert exit_code(main, *again) == 0
    assert set(names(tmp_path / "again")) == set(names(tmp_path / "model")) - {"losses.svg"}


def test_no_model_at_all(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert exit_code(main, "--checkpoint", tmp_path / "empty", "--output_dir", tmp_path / "x") == 4
    assert "no config.json, model.safetensors" in capsys.readouterr().err
