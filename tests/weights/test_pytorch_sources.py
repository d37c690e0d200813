"""Weights of NVIDIA's and bing_bert's programs, and of any PyTorch file; pickles are data."""

import json
import os
import resource
import shutil
import zipfile

import pytest
import torch
from data_util import exit_code
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertForPreTraining, BertModel
from weights_util import (
    SIZES,
    WORDS,
    assert_same_outputs,
    outputs,
    sample,
    stock_model,
    stock_weights,
)

from ds_bert.commands.convert_model import main

FUSED = (".intermediate.dense.", "bert.pooler.dense.", ".transform.dense.")


@pytest.fixture(scope="module")
def model():
    return stock_model()


def nvidia_names(model):
    """Its state dict as NVIDIA's BertForPreTraining has it."""
    weights = stock_weights(model)
    for part in FUSED:
        fused = part.replace(".dense.", ".dense_act.")
        weights = {name.replace(part, fused): value for name, value in weights.items()}
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    return weights


def kernel_names(model):
    """Its state dict with layers of DeepSpeed's transformer kernel, as bing_bert has it."""
    weights = nvidia_names(model)
    for number in range(SIZES["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{number}."
        for end, short in (("weight", "w"), ("bias", "b")):
            heads = ("query", "key", "value")
            thirds = [weights.pop(f"{layer}attention.self.{name}.{end}") for name in heads]
            weights[f"{layer}attn_qkv{short}"] = torch.cat(thirds)
            for name, flat in (
                ("attention.output.dense", "attn_o"),
                ("attention.output.LayerNorm", "attn_n"),
                ("intermediate.dense_act", "inter_"),
                ("output.dense", "output_"),
                ("output.LayerNorm", "norm_"),
            ):
                weights[f"{layer}{flat}{short}"] = weights.pop(f"{layer}{name}.{end}")
    return weights


def padded(weights, rows):
    """With a vocabulary filled up by rows that mean nothing."""
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"):
        weights[name] = torch.cat([weights[name], torch.randn(rows, weights[name].shape[1])])
    weights["cls.predictions.bias"] = torch.cat([weights["cls.predictions.bias"], torch.ones(rows)])
    return weights


@pytest.fixture
def folder(tmp_path):
    """A folder with a configuration and a vocabulary."""
    folder = tmp_path / "nvidia"
    folder.mkdir()
    (folder / "bert_config.json").write_text(json.dumps(SIZES))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def convert(source, out, *more):
    return exit_code(main, "--model", source, "--output_dir", out, *more)


@pytest.mark.parametrize("names", [nvidia_names, kernel_names])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_hidden_states_of_nvidias_and_bing_berts(model, folder, tmp_path, capsys, names, prefix):
    weights = padded(names(model), 4)  # 20 tokens, 24 rows
    weights = {prefix + name: value for name, value in weights.items()}
    content = {"model": weights, "optimizer": {"state": {0: torch.ones(3)}}, "files": ["a", "b"]}
    torch.save(content, folder / "ckpt_20.pt")
    assert convert(folder / "ckpt_20.pt", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert f"found: NVIDIA DeepLearningExamples {folder / 'ckpt_20.pt'}" in shown
    assert "4 rows after the vocabulary" in shown
    converted = BertForPreTraining.from_pretrained(tmp_path / "out")
    assert converted.config.vocab_size == len(WORDS)
    assert_same_outputs(model, converted)


def test_there_and_back(model, folder, tmp_path, capsys):
    torch.save(nvidia_names(model), folder / "bare.pt")
    command = [folder / "bare.pt", tmp_path / "out", "--to", "nvidia", "--no_do_lower_case"]
    assert convert(*command) == 0
    assert "its text is not lower-cased: tell the scripts" in capsys.readouterr().out
    written = torch.load(tmp_path / "out/ckpt_0.pt", weights_only=True)["model"]
    expected = nvidia_names(model)
    assert written.keys() == expected.keys()
    for name, value in written.items():
        assert torch.equal(value[: len(expected[name])], expected[name])
    assert len(written["bert.embeddings.word_embeddings.weight"]) == 24, "a multiple of 8"
    logits = outputs(model, sample())[-2][0, 0]
    extra = torch.cat([logits, written["cls.predictions.bias"][20:]])
    assert torch.equal(extra.softmax(0)[:20], logits.softmax(0)), "padding is never predicted"


def test_a_configuration_and_a_vocabulary_from_elsewhere(model, folder, tmp_path, capsys):
    torch.save({"model": nvidia_names(model)}, tmp_path / "ckpt.pt")
    assert convert(tmp_path / "ckpt.pt", tmp_path / "out") == 2
    assert "name the model's with --bert_config_file" in capsys.readouterr().err
    (folder / "bing_bert.json").write_text(
        json.dumps({"name": "bing", "bert_model_config": SIZES | {"vocab_size": 30522}})
    )
    more = ["--bert_config_file", folder / "bing_bert.json"]
    assert convert(tmp_path / "ckpt.pt", tmp_path / "out", *more) == 2
    assert "name its vocabulary with --vocab_file" in capsys.readouterr().err
    more += ["--vocab_file", folder / "vocab.txt"]
    assert convert(tmp_path / "ckpt.pt", tmp_path / "out", *more) == 0
    assert_same_outputs(model, BertForPreTraining.from_pretrained(tmp_path / "out"))


@pytest.mark.parametrize("tokens", [WORDS[:10], (*WORDS, *"abcde")])
def test_a_vocabulary_that_does_not_fit(model, folder, tmp_path, capsys, tokens):
    torch.save({"model": nvidia_names(model)}, folder / "ckpt.pt")
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    assert convert(folder / "ckpt.pt", tmp_path / "out") == 2
    shown = capsys.readouterr().err
    assert f"embeddings of 20 tokens, its vocabulary has {len(tokens)}" in shown


def test_layer_norms_before_the_blocks_are_refused(model, folder, tmp_path, capsys):
    weights = nvidia_names(model)
    weights["bert.encoder.FinalLayerNorm.weight"] = torch.ones(16)
    torch.save({"model": weights}, folder / "ckpt.pt")
    assert convert(folder / "ckpt.pt", tmp_path / "out") == 4
    shown = capsys.readouterr().err
    assert "pre-LN" in shown and "Expected a post-LN BERT" in shown
    assert not (tmp_path / "out").exists()


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_of_more_than_data(model, folder, tmp_path, capsys, monkeypatch, new_format):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "it_ran"
    content = {"model": nvidia_names(model), "data_loader": Malicious(marker)}
    torch.save(content, folder / "ckpt.pt", _use_new_zipfile_serialization=new_format)
    assert convert(folder / "ckpt.pt", tmp_path / "out") == 4
    shown = capsys.readouterr().err
    assert "holds more than weights (posix.mkdir)" in shown and "Traceback" not in shown
    assert not marker.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("new_format", [True, False])
def test_files_of_both_formats(model, folder, tmp_path, new_format):
    weights = nvidia_names(model)
    torch.save(weights, folder / "ckpt.pt", _use_new_zipfile_serialization=new_format)
    assert convert(folder / "ckpt.pt", tmp_path / "out") == 0
    assert_same_outputs(model, BertForPreTraining.from_pretrained(tmp_path / "out"), tolerance=0)


def flip(path):
    with zipfile.ZipFile(path) as records:  # in the middle of the largest tensor
        record = max(records.infolist(), key=lambda item: item.file_size)
    content = bytearray(path.read_bytes())
    content[record.header_offset + 64 + record.file_size // 2] ^= 4
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def other(path):
    path.write_bytes(b"not a model")


@pytest.mark.parametrize("damage", [flip, cut, other])
def test_damaged_files_are_named(model, folder, tmp_path, capsys, damage):
    torch.save({"model": nvidia_names(model)}, folder / "ckpt.pt")
    damage(folder / "ckpt.pt")
    assert convert(folder / "ckpt.pt", tmp_path / "out") == 4
    shown = capsys.readouterr().err
    assert f"{folder / 'ckpt.pt'} is damaged, or no file of torch.save" in shown
    assert "Traceback" not in shown and not (tmp_path / "out").exists()


# --- Hugging Face -------------------------------------------------------------------------------


def save_hugging_face(model, folder):
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")


@pytest.mark.parametrize("kind", ["safetensors", "bin", "gamma"])
def test_a_hugging_face_model(model, tmp_path, kind):
    folder = tmp_path / "hf"
    save_hugging_face(model, folder)
    if kind != "safetensors":
        weights = load_file(folder / "model.safetensors")
        if kind == "gamma":  # as in the first files of bert-base-uncased
            old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
            for new, name in old.items():
                weights = {key.replace(new, name): value for key, value in weights.items()}
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
    assert convert(folder, tmp_path / "out") == 0
    assert_same_outputs(model, BertForPreTraining.from_pretrained(tmp_path / "out"), tolerance=0)


def test_a_model_in_several_files(model, tmp_path, capsys):
    folder = tmp_path / "hf"
    model.save_pretrained(folder, max_shard_size="4KB")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 2
    assert convert(folder, tmp_path / "out") == 0
    assert_same_outputs(model, BertForPreTraining.from_pretrained(tmp_path / "out"), tolerance=0)
    parts[1].unlink()
    assert convert(folder, tmp_path / "other") == 4
    assert parts[1].name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stock", "initialised"),
    [
        (BertModel, "masked-LM head (cls.predictions.*), next-sentence head"),
        (BertForMaskedLM, "pooler (bert.pooler.*), next-sentence head"),
    ],
)
def test_heads_that_are_not_there(model, tmp_path, capsys, stock, initialised):
    part = stock.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    save_hugging_face(part, tmp_path / "hf")
    assert convert(tmp_path / "hf", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert f"initialised: {initialised}" in shown and f"({stock.__name__})" in shown
    converted = BertForPreTraining.from_pretrained(tmp_path / "out")
    states = [m(**sample(), output_hidden_states=True).hidden_states for m in (model, converted)]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_another_architecture(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    assert convert(tmp_path, tmp_path / "out") == 2
    assert "found model_type 'roberta', expected 'bert'" in capsys.readouterr().err


def test_a_damaged_safetensors_file(model, tmp_path, capsys):
    save_hugging_face(model, tmp_path / "hf")
    cut(tmp_path / "hf/model.safetensors")
    assert convert(tmp_path / "hf", tmp_path / "out") == 4
    assert "model.safetensors is damaged" in capsys.readouterr().err


def test_output_weights_of_their_own(model, tmp_path, capsys):
    """A broken tie cannot be kept; it is said."""
    save_hugging_face(model, tmp_path / "hf")
    weights = load_file(tmp_path / "hf/model.safetensors")
    weights["cls.predictions.decoder.weight"] = torch.zeros(20, 16)
    save_file(weights, tmp_path / "hf/model.safetensors", {"format": "pt"})
    assert convert(tmp_path / "hf", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "1 others (cls.predictions.decoder.weight)" in shown
    assert "masked-LM logits are not" in shown


@pytest.mark.parametrize("name", ["nothing/here", "empty"])
def test_nothing_that_is_known(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert convert(name, tmp_path / "out") == 2
    assert "nothing known is there; expected a Hugging Face folder" in capsys.readouterr().err


def test_what_is_there_is_kept(model, tmp_path, capsys):
    save_hugging_face(model, tmp_path / "hf")
    shutil.copytree(tmp_path / "hf", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("")
    assert convert(tmp_path / "hf", tmp_path / "out") == 2
    assert convert(tmp_path / "hf", tmp_path / "out", "--overwrite") == 0
    assert convert(tmp_path / "hf", tmp_path / "mine", "--overwrite") == 2
    assert convert(tmp_path / "hf", tmp_path / "hf", "--overwrite") == 2
    assert "holds the source" in capsys.readouterr().err
    assert (tmp_path / "mine/thesis.tex").exists()


def test_a_model_in_half_precision(model, tmp_path):
    """Its numbers, in fp32; its configuration must not make them halves again."""
    half = BertForPreTraining(model.config).half()
    half.load_state_dict(model.half().state_dict())
    model.float()
    save_hugging_face(half, tmp_path / "hf")
    assert convert(tmp_path / "hf", tmp_path / "out") == 0
    converted = BertForPreTraining.from_pretrained(tmp_path / "out")
    assert converted.dtype == torch.float32
    assert_same_outputs(half.float(), converted, tolerance=0)


def test_a_quantised_model(model, tmp_path, capsys):
    save_hugging_face(model, tmp_path / "hf")
    weights = load_file(tmp_path / "hf/model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    weights[name] = weights[name].to(torch.int8)
    save_file(weights, tmp_path / "hf/model.safetensors", {"format": "pt"})
    assert convert(tmp_path / "hf", tmp_path / "out") == 4
    assert f"{name} is quantised (torch.int8)" in capsys.readouterr().err


@pytest.mark.parametrize("files", ["safetensors", "bin"])
def test_a_hub_id(model, tmp_path, monkeypatch, files):
    """The small files and one kind of weights are fetched, safetensors first."""
    save_hugging_face(model, tmp_path / "hf")
    if files == "bin":
        torch.save(load_file(tmp_path / "hf/model.safetensors"), tmp_path / "hf/pytorch_model.bin")
    snapshots = tmp_path / "snapshots"

    def snapshot_download(name, allow_patterns):
        assert name == "somebody/bert"
        snapshots.mkdir(exist_ok=True)
        for path in (tmp_path / "hf").iterdir():
            is_other = files == "bin" and path.suffix == ".safetensors"
            if any(path.match(pattern) for pattern in allow_patterns) and not is_other:
                shutil.copy(path, snapshots)
        return str(snapshots)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert convert("somebody/bert", tmp_path / "out") == 0
    assert_same_outputs(model, BertForPreTraining.from_pretrained(tmp_path / "out"), tolerance=0)
    weights = [path.name for path in snapshots.iterdir() if path.suffix in (".bin", ".safetensors")]
    assert weights == ["pytorch_model.bin" if files == "bin" else "model.safetensors"]


@pytest.mark.parametrize("to", ["hf", "tf1", "nvidia"])
def test_a_full_disk(model, tmp_path, capsys, to):
    save_hugging_face(model, tmp_path / "hf")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        assert convert(tmp_path / "hf", tmp_path / "out", "--to", to) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    shown = capsys.readouterr().err
    assert "the model cannot be written (" in shown and "File too large" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"hidden_size": "wide"}', '{"hidden_act": "none"}', '{"vocab_size": -1}'],
)
def test_a_configuration_that_is_none(model, folder, tmp_path, capsys, content):
    torch.save(nvidia_names(model), folder / "ckpt.pt")
    (folder / "bert_config.json").write_text(content)
    assert convert(folder / "ckpt.pt", tmp_path / "out") in (2, 4)
    assert "Traceback" not in capsys.readouterr().err
