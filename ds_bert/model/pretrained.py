"""Where a model comes from: presets, config files, Hugging Face folders; all checked first."""

import shlex
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, BertConfig

from ds_bert import files, recipes
from ds_bert.errors import CheckpointError, ConfigurationError
from ds_bert.model.bert import UnpaddedBert
from ds_bert.tokenizer.vocabulary import Vocabulary, read_model_vocabulary

# The sizes of Devlin et al. 2019 and Turc et al. 2019; the rest is BertConfig's default.
PRESETS = {
    name: {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
    }
    for name, layers, hidden in (
        ("bert-tiny", 2, 128),
        ("bert-mini", 4, 256),
        ("bert-base", 12, 768),
        ("bert-large", 24, 1024),
    )
}
SHAPE_FIELDS = (
    *PRESETS["bert-tiny"],
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
)


def is_random_weights(name: str) -> bool:
    """Whether `name` is a preset or a config file rather than a trained model."""
    return name in PRESETS or name.endswith(".json")


def read_model_config(name: str, vocabulary: Vocabulary, max_seq_length: int) -> BertConfig:
    """The configuration of the model `name`, checked against the data.

    Args:
        name: preset, path of a config.json, or Hugging Face folder or id.
        vocabulary: the data set's; a preset takes its size from it.
        max_seq_length: the longest sequence of the data, in tokens.

    Raises:
        ConfigurationError: unknown name, not a BERT, too few positions or another vocabulary size.
    """
    if name in PRESETS:
        config = BertConfig(
            **PRESETS[name], vocab_size=vocabulary.size, pad_token_id=vocabulary.pad_id
        )
    elif name.endswith(".json"):
        config = read_config_file(recipes.find_file(name))
    else:
        config = _read_hugging_face_config(name)
    if config.max_position_embeddings < max_seq_length:
        raise ConfigurationError(
            f"max_seq_length {max_seq_length} is above max_position_embeddings "
            f"{config.max_position_embeddings} of {name}; choose a shorter length or another model"
        )
    if config.vocab_size < vocabulary.size:
        raise ConfigurationError(
            f"the data set has a vocabulary of {vocabulary.size:,} tokens, {name} has vocab_size "
            f"{config.vocab_size:,}; use the model's own vocabulary for the data, or another model"
        )
    return config


def read_config_file(path: Path) -> BertConfig:
    """The configuration in a JSON file of Hugging Face's, Google's or bing_bert's kind.

    Raises:
        ConfigurationError: not readable, not JSON, or of another kind of model.
    """
    try:
        values = files.parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"model {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigurationError(f"model {path}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"model {path}: found no JSON object, expected a configuration")
    values = values.get("bert_model_config", values)  # bing_bert has more in its file
    _require_bert(values.get("model_type", "bert"), str(path))
    try:
        return BertConfig(**values)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise ConfigurationError(f"model {path}: not a BERT's configuration ({reason})") from None


def _read_hugging_face_config(name: str) -> BertConfig:
    try:
        # Said although it is the default: without it a terminal is asked whether to run its code.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError):
        _refuse_foreign(name)
        raise ConfigurationError(
            f"model {name!r}: not a preset ({', '.join(PRESETS)}), a .json file, a run, a "
            "checkpoint, a Hugging Face folder, or an id that is in reach"
        ) from None
    _require_bert(config.model_type, name)
    return config


def _refuse_foreign(name: str) -> None:
    """Say what makes a Hugging Face folder of the weights of another program."""
    path = Path(name)
    is_google = any(path.glob("*.index")) or (path.parent / f"{path.name}.index").is_file()
    is_torch = path.is_file() or any(path.glob("*model_states.pt")) or (path / "latest").is_file()
    if is_google or is_torch:
        kind = "a TF1 checkpoint" if is_google else "weights of PyTorch or DeepSpeed"
        raise ConfigurationError(
            f"model {name!r}: found {kind}, expected a Hugging Face folder; make one: ds-bert "
            f"convert-model --model {shlex.quote(name)} --output_dir models/converted"
        )


def _require_bert(model_type: Any, name: str) -> None:
    if model_type != "bert":
        raise ConfigurationError(f"model {name}: found model_type {model_type!r}, expected 'bert'")


def build_model(name: str, config: BertConfig, model_class: type[UnpaddedBert]) -> UnpaddedBert:
    """The model `name` with its weights, or with random ones (from torch's default generator).

    Args:
        name: as for `read_model_config`.
        config: from there.
        model_class: of the objective.

    Raises:
        CheckpointError: the encoder's weights are missing or damaged.
    """
    if is_random_weights(name):
        return model_class(config)
    model, _ = load_model(name, model_class)
    return model


def load_model(
    folder: str | Path, model_class: type[UnpaddedBert]
) -> tuple[UnpaddedBert, set[str]]:
    """Load a Hugging Face BERT in fp32; what the objective has no use for is left out.

    Args:
        folder: or an id on the hub.
        model_class: of the objective.

    Returns:
        the model, and which of its heads ("cls.predictions", "cls.seq_relationship") are not in the
        file (their weights are random then).

    Raises:
        CheckpointError: not readable, or weights of the encoder are missing or of other shapes.
    """
    try:
        model, info = model_class.from_pretrained(
            str(folder),
            output_loading_info=True,
            dtype=torch.float32,
            trust_remote_code=False,
        )
    except Exception as error:  # safetensors, JSON and OS errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"model {folder}: cannot be loaded ({reason})") from None
    missing = {key for key in info["missing_keys"] if not key.startswith("cls.predictions.decoder")}
    encoder = sorted(key for key in missing if not key.startswith(("cls.", "bert.pooler")))
    if encoder:
        raise CheckpointError(
            f"model {folder}: {len(encoder)} weights of the encoder are missing (first: "
            f"{encoder[0]}); this is not a complete BERT"
        )
    heads = {".".join(key.split(".")[:2]) for key in missing}
    if "bert.pooler" in heads:  # the next-sentence head is useless without its pooler
        heads = heads - {"bert.pooler"} | {"cls.seq_relationship"}
    return model, heads


def check_vocabulary(name: str, vocabulary: Vocabulary) -> None:
    """Refuse a model, folder or hub id, whose vocabulary is not that of the data.

    Raises:
        CheckpointError: names both hashes.
    """
    try:
        found = read_model_vocabulary(name)
    except ConfigurationError:  # a model without tokenizer files: the sizes have been compared
        return
    if found.sha256 != vocabulary.sha256:
        raise CheckpointError(
            f"model {name} has the vocabulary {found.sha256[:12]} ({found.size:,} tokens), the "
            f"data set {vocabulary.sha256[:12]} ({vocabulary.size:,} tokens); preprocess the text "
            "with the model's vocabulary (ds-bert create-vocab --model_name_or_path)"
        )


def check_same_shape(config: BertConfig, other: BertConfig, where: str) -> None:
    """Refuse weights of another model size.

    Raises:
        CheckpointError: lists the fields that differ.
    """
    differ = [
        f"{name} {getattr(other, name)} instead of {getattr(config, name)}"
        for name in SHAPE_FIELDS
        if getattr(other, name) != getattr(config, name)
    ]
    if differ:
        raise CheckpointError(
            f"{where} is a model of another size: {', '.join(differ)}; set `model` to that size or "
            "name another checkpoint"
        )
