"""Exports in ONNX Runtime and sentence-transformers."""

import json

import pytest
import torch
from data_util import exit_code
from export_util import data_of, make_run
from transformers import AutoModel, AutoTokenizer

from ds_bert.commands.export_hf import main
from ds_bert.errors import CheckpointError
from ds_bert.exporting import onnx_file

SENTENCES = ["The house stands by the river.", "A dog!", "the " * 60]


@pytest.fixture(scope="module")
def run(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("run")
    return make_run(folder, data_of(folder, golden))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """With files of sentence-transformers."""
    folder = tmp_path_factory.mktemp("models") / "model"
    line = ["--checkpoint", run, "--output_dir", folder, "--sentence_transformers"]
    assert exit_code(main, *line) == 0
    return folder


@torch.no_grad()
def mean_embeddings(folder, max_seq_length):
    """Means over the tokens of each sentence alone, by stock transformers."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    how = {"return_tensors": "pt", "truncation": True, "max_length": max_seq_length}
    hidden = [model.eval()(**tokenizer(text, **how)).last_hidden_state for text in SENTENCES]
    return torch.cat([states.mean(1) for states in hidden])


def test_sentence_transformers_takes_the_mean(exported):
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(exported), device="cpu")
    found = model.encode(SENTENCES, convert_to_tensor=True)
    assert model.max_seq_length == 32, "more than it was trained with"
    # Padding changes the order in which matrix products are added up.
    assert torch.allclose(found, mean_embeddings(exported, 32), atol=1e-5)


def test_files_of_sentence_transformers(exported):
    """The form that all its versions read."""
    modules = json.loads((exported / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling"]
    assert all(module["type"].startswith("sentence_transformers.models.") for module in modules)
    pooling = json.loads((exported / "1_Pooling/config.json").read_text())
    assert pooling.pop("word_embedding_dimension") == 32
    assert [name for name, is_on in pooling.items() if is_on] == ["pooling_mode_mean_tokens"]
    assert "SentenceTransformer(" in (exported / "README.md").read_text()


def test_onnx_computes_the_same_for_any_batch(run, tmp_path, capsys):
    for name in onnx_file._PACKAGES:
        pytest.importorskip(name)
    import onnxruntime

    line = ["--checkpoint", run, "--output_dir", tmp_path / "model", "--onnx"]
    assert exit_code(main, *line) == 0
    assert "ONNX Runtime compute what ds_bert computes" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "model/onnx/model.onnx")
    model = AutoModel.from_pretrained(tmp_path / "model").eval()
    for batch, length in ((1, 1), (3, 64)):  # traced with 2 x 5
        ids = torch.arange(batch * length).reshape(batch, length) + 5
        inputs = dict(zip(onnx_file.INPUTS, (ids, ids.sign(), ids.sign() - 1), strict=True))
        arrays = {name: value.numpy() for name, value in inputs.items()}
        (found,) = session.run(["last_hidden_state"], arrays)
        with torch.no_grad():
            expected = model(**inputs).last_hidden_state
        assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
    with pytest.raises(CheckpointError, match="ONNX Runtime computes another"):
        own, theirs = {"logits": torch.ones(8, 5)}, {"logits": torch.ones(8, 5) * 1.01}
        onnx_file.require_same(onnx_file.differences("ONNX Runtime", own, theirs))


def test_onnx_without_its_packages(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_file, "_PACKAGES", ("onnx", "no_such_package"))
    line = ["--checkpoint", run, "--output_dir", tmp_path / "model", "--onnx"]
    assert exit_code(main, *line) == 2
    assert 'no_such_package not found; pip install "ds_bert[onnx]"' in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
