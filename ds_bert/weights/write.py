"""Writing a BERT as a folder of Hugging Face's, Google's or NVIDIA's kind, and reading it back."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from ds_bert.checkpoint.hf_folder import write_model_folder
from ds_bert.errors import CheckpointError, ConfigurationError
from ds_bert.files import write_text
from ds_bert.model.bert import BertForUnpaddedPreTraining
from ds_bert.weights import google
from ds_bert.weights.names import to_nvidia
from ds_bert.weights.recognise import read_model
from ds_bert.weights.source import EMBEDDINGS, OUTPUT_BIAS, VOCABULARY, SourceModel

NVIDIA_FILE = "ckpt_0.pt"
TITLES = {
    "hf": "a Hugging Face model, BertForPreTraining",
    "tf1": f"a TF1 checkpoint: {google.CHECKPOINT}.*, bert_config.json, {VOCABULARY}",
    "nvidia": f"NVIDIA's: {NVIDIA_FILE}, bert_config.json, {VOCABULARY}",
}
_BERT_CONFIG = (  # what Google's and NVIDIA's scripts read
    *("attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size"),
    *("initializer_range", "intermediate_size", "max_position_embeddings", "num_attention_heads"),
    *("num_hidden_layers", "type_vocab_size", "vocab_size"),
)
_TANH = ("gelu_new", "gelu_pytorch_tanh")  # Hugging Face's names of the approximation
_LAYER_NORM_EPS = 1e-12  # fixed in their code
_ACTIVATIONS = ("gelu", "relu")  # known to both


def write_model(folder: Path, model: SourceModel, to: str) -> list[str]:
    """Write a model and read it back.

    Args:
        folder: to write in.
        model: with its vocabulary and casing.
        to: one of `TITLES`.

    Returns:
        what that kind of folder cannot say of the model, and its owner has to know.

    Raises:
        ConfigurationError: the disk is full or fails.
        CheckpointError: what is read is not what was written.
    """
    try:
        notes = _WRITERS[to](folder, model)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigurationError(
            f"the model cannot be written ({_reason(error)}); make room, or choose another "
            "--output_dir"
        ) from None
    _read_back(folder, model)
    return notes


def _write_hugging_face(folder: Path, model: SourceModel) -> list[str]:
    with torch.device("meta"):  # gives the configuration alone
        skeleton = BertForUnpaddedPreTraining(model.config)
    assert model.vocabulary is not None
    place = Path(model.place)  # without the folders of one machine; a hub id as a whole
    name = place.name if place.parent.is_dir() else model.place
    facts = {"converted from": f"{model.kind} {name}".replace("|", "/")}
    if model.initialised:
        facts["not trained, initialised"] = ", ".join(model.initialised)
    casing, title = bool(model.do_lower_case), "BERT converted by ds_bert"
    is_loud = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # one for a single file
    try:
        write_model_folder(folder, skeleton, model.weights, model.vocabulary, casing, facts, title)
    finally:
        if is_loud:
            logging.enable_progress_bar()
    return []


def _write_google(folder: Path, model: SourceModel) -> list[str]:
    google.write_checkpoint(folder, model.weights)
    activation = "gelu" if model.config.hidden_act in _TANH else model.config.hidden_act
    notes = _write_bert_config(folder, model, activation)
    if model.config.hidden_act == "gelu":
        notes.append(
            "later versions of Google's code approximate gelu by tanh; this model does not"
        )
    return notes


def _write_nvidia(folder: Path, model: SourceModel) -> list[str]:
    with open(folder / NVIDIA_FILE, "wb") as file:  # a full disk is an OSError, by path it is not
        torch.save({"model": to_nvidia(model.weights)}, file)
    return _write_bert_config(folder, model, model.config.hidden_act)


def _write_bert_config(folder: Path, model: SourceModel, activation: str) -> list[str]:
    assert model.vocabulary is not None
    values = {name: getattr(model.config, name) for name in _BERT_CONFIG}
    values["hidden_act"] = activation
    write_text(folder / "bert_config.json", json.dumps(values, indent=2) + "\n")
    model.vocabulary.save(folder / VOCABULARY)
    casing = "lower-cased" if model.do_lower_case else "not lower-cased"
    notes = [f"its text is {casing}: tell the scripts (do_lower_case)"]
    if activation not in _ACTIVATIONS:
        notes.append(f"{activation} is none of the activations there")
    if model.config.layer_norm_eps != _LAYER_NORM_EPS:
        notes.append(f"layer_norm_eps {model.config.layer_norm_eps} is {_LAYER_NORM_EPS} there")
    return notes


_WRITERS: dict[str, Callable[[Path, SourceModel], list[str]]] = {
    "hf": _write_hugging_face,
    "tf1": _write_google,
    "nvidia": _write_nvidia,
}


def _reason(error: Exception) -> str:
    """What the disk said; torch.save hides it in what it raises while it closes a file."""
    if isinstance(error, RuntimeError):
        if not isinstance(error.__context__, OSError):
            raise error
        error = error.__context__
    return getattr(error, "strerror", None) or str(error)


def _read_back(folder: Path, model: SourceModel) -> None:
    """Every weight has to be what it was."""
    file = folder / NVIDIA_FILE
    written = read_model(str(file if file.is_file() else folder)).weights
    rows = len(model.weights[EMBEDDINGS])  # NVIDIA's has more: padding
    for name, weight in model.weights.items():
        found = written[name][:rows] if name in (EMBEDDINGS, OUTPUT_BIAS) else written[name]
        if not torch.equal(found, weight):
            raise CheckpointError(
                f"{folder}: {name} is not what was written; look at the disk, then try again"
            )
