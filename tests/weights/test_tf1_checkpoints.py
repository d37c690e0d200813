"""TF1 checkpoints of google-research/bert as BERTs, and back."""

import json

import numpy as np
import pytest
import torch
from data_util import exit_code
from safetensors.torch import load_file
from transformers import BertForPreTraining
from weights_util import (
    SIZES,
    WORDS,
    config,
    google_forward,
    google_variables,
    outputs,
    sample,
    write_bundle,
)

from ds_bert.commands.convert_model import main
from ds_bert.weights import google
from ds_bert.weights.google import tf1_name
from ds_bert.weights.source import weight_shapes
from ds_bert.weights.tensor_bundle import TensorBundle


def release(folder, variables=None, **how):
    """A folder as Google's releases; returns the prefix of the checkpoint."""
    folder.mkdir(exist_ok=True)
    (folder / "bert_config.json").write_text(json.dumps(SIZES | {"pooler_type": "first_token"}))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return write_bundle(folder, variables or google_variables(), **how)


def with_optimizer(variables):
    slots = {f"{name}/adam_{k}": value for name, value in variables.items() for k in "mv"}
    return variables | slots | {"global_step": np.array(20, "<i8")}


def test_names_are_those_of_googles_graph():

    names = [tf1_name(name)[0] for name in weight_shapes(config())]
    assert sorted(names) == sorted(google_variables())


@pytest.mark.parametrize("what", ["prefix", "folder", "index", "data"])
def test_hidden_states_are_those_of_the_variables(tmp_path, capsys, what):
    variables = google_variables()
    prefix = release(tmp_path / "google", with_optimizer(variables), num_shards=2)
    ending = {"index": ".index", "data": ".data-00000-of-00002"}.get(what, "")
    source = prefix.parent if what == "folder" else f"{prefix}{ending}"
    out = tmp_path / "out"
    assert exit_code(main, "--model", source, "--output_dir", out) == 0
    shown = capsys.readouterr().out
    assert f"found: TF1 checkpoint {prefix}" in shown
    assert f"left out: {2 * len(variables) + 1} of the optimizer\n" in shown
    assert "initialised: nothing" in shown and "hidden_act gelu_new" in shown
    model = BertForPreTraining.from_pretrained(out)
    assert model.config.pooler_type == "first_token", "nothing of the configuration is lost"
    for found, expected in zip(
        outputs(model, sample()), google_forward(variables, sample()), strict=True
    ):
        assert np.abs(found.numpy() - expected).max() < 1e-5


def test_back_to_tf1_and_again(tmp_path):
    release(tmp_path / "google")
    assert exit_code(main, "--model", tmp_path / "google", "--output_dir", tmp_path / "hf") == 0
    back = ["--model", tmp_path / "hf", "--output_dir", tmp_path / "tf1", "--to", "tf1"]
    assert exit_code(main, *back) == 0
    bundle, variables = TensorBundle(tmp_path / "tf1/bert_model.ckpt"), google_variables()
    assert set(bundle.entries) == set(variables)
    for name, tensor in bundle.read(variables).items():
        assert torch.equal(tensor, torch.from_numpy(variables[name]))
    assert json.loads((tmp_path / "tf1/bert_config.json").read_text()) == SIZES | {
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
    }
    assert (tmp_path / "tf1/vocab.txt").read_bytes() == (tmp_path / "google/vocab.txt").read_bytes()
    again = ["--model", tmp_path / "tf1", "--output_dir", tmp_path / "hf2"]
    assert exit_code(main, *again) == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "hf2"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_tanh_form_of_gelu(tmp_path):
    release(tmp_path / "google")
    there = ["--model", tmp_path / "google", "--output_dir", tmp_path / "hf"]
    assert exit_code(main, *there, "--hidden_act", "gelu_new") == 0
    assert BertForPreTraining.from_pretrained(tmp_path / "hf").config.hidden_act == "gelu_new"
    back = ["--model", tmp_path / "hf", "--output_dir", tmp_path / "tf1", "--to", "tf1"]
    assert exit_code(main, *back) == 0
    assert json.loads((tmp_path / "tf1/bert_config.json").read_text())["hidden_act"] == "gelu"


def test_a_missing_head_is_initialised_and_said(tmp_path, capsys):
    variables = {n: v for n, v in google_variables().items() if "seq_relationship" not in n}
    variables["output_weights"] = np.zeros((3, 16), "<f4")  # of a classifier
    release(tmp_path / "google", variables)
    command = ["--model", tmp_path / "google", "--output_dir"]
    assert exit_code(main, *command, tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "initialised: next-sentence head (cls.seq_relationship.*)\n" in shown
    assert "left out: 1 others (output_weights)\n" in shown
    card = (tmp_path / "out/README.md").read_text()
    assert "not trained, initialised" in card and str(tmp_path) not in card
    assert exit_code(main, *command, tmp_path / "same") == 0
    assert exit_code(main, *command, tmp_path / "other", "--seed", 7) == 0
    heads = [
        load_file(tmp_path / name / "model.safetensors")["cls.seq_relationship.weight"]
        for name in ("out", "same", "other")
    ]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert 0.005 < heads[0].std() < 0.05  # initializer_range 0.02


def damage_index(prefix):
    path = prefix.with_name(f"{prefix.name}.index")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def damage_data(prefix):
    path = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def lose(ending):
    return lambda prefix: prefix.with_name(f"{prefix.name}.{ending}").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_index, ".index is damaged"),
        (damage_data, ".data-00000-of-00001 is damaged: "),
        (lose("index"), ".index is missing"),
        (lose("data-00000-of-00001"), ".data-00000-of-00001: cannot be read"),
    ],
)
def test_damage_is_named_and_nothing_is_written(tmp_path, capsys, damage, message):
    prefix = release(tmp_path / "google")
    damage(prefix)
    assert exit_code(main, "--model", prefix, "--output_dir", tmp_path / "out") == 4
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["google"]


def variables_of_others():
    whole = google_variables()
    yield {"electra/x": np.zeros(2, "<f4")}, {}, "none is of a BERT (first: electra/x)"
    tf2 = "encoder/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    yield {tf2: np.zeros(2, "<f4")}, {}, "checkpoint of TensorFlow 2"
    lacking = {n: v for n, v in whole.items() if "layer_1/output/dense" not in n}
    yield lacking, {}, "2 weights of the encoder are missing (first: bert.encoder.layer.1.output"
    yield whole, {"num_hidden_layers": 1}, "no place for (first: bert/encoder/layer_1/"
    yield whole, {"hidden_size": 32}, "has the shape (20, 16), its configuration says (20, 32)"
    yield whole, {"num_attention_heads": 3}, "no BERT can be of these sizes"
    bad = whole | {"cls/predictions/output_bias": np.full(len(WORDS), np.nan, "<f4")}
    yield bad, {}, "cls.predictions.bias holds numbers that are not finite"


@pytest.mark.parametrize(("variables", "sizes", "message"), variables_of_others())
def test_what_is_no_such_bert(tmp_path, capsys, variables, sizes, message):
    prefix = release(tmp_path / "google", variables)
    (tmp_path / "google/bert_config.json").write_text(json.dumps(SIZES | sizes))
    assert exit_code(main, "--model", prefix, "--output_dir", tmp_path / "out") in (2, 4)
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown
    assert not (tmp_path / "out").exists()


def test_a_folder_of_several_checkpoints(tmp_path, capsys):
    release(tmp_path / "google")
    release(tmp_path / "google", name="model.ckpt-40")
    assert exit_code(main, "--model", tmp_path / "google", "--output_dir", tmp_path / "out") == 2
    assert "name one of model.ckpt-20, model.ckpt-40" in capsys.readouterr().err


def test_a_checkpoint_beside_a_configuration_of_hugging_face(tmp_path):
    release(tmp_path / "google")
    (tmp_path / "google/bert_config.json").rename(tmp_path / "google/config.json")
    assert exit_code(main, "--model", tmp_path / "google", "--output_dir", tmp_path / "out") == 0


def test_what_was_written_is_read_back(tmp_path, monkeypatch, capsys):
    """A disk that keeps other bytes than it was given."""
    release(tmp_path / "google")
    original = google.write_bundle

    def bad(prefix, tensors):
        name = "bert/pooler/dense/kernel"
        original(prefix, tensors | {name: tensors[name] + 1e-3})

    monkeypatch.setattr(google, "write_bundle", bad)
    command = ["--model", tmp_path / "google", "--output_dir", tmp_path / "out", "--to", "tf1"]
    assert exit_code(main, *command) == 4
    assert "bert.pooler.dense.weight is not what was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["google"]
