"""What kind of model a path is, by its content; and reading it as a BERT for pre-training."""

from pathlib import Path

from ds_bert.checkpoint.verify import find_model
from ds_bert.errors import ConfigurationError
from ds_bert.weights import google, hugging_face, zero_shards
from ds_bert.weights.names import is_nvidia, translate
from ds_bert.weights.source import SourceModel, complete, find_config, find_vocabulary
from ds_bert.weights.torch_files import load_torch

GELU = (
    "gelu is computed exactly, as in Google's first releases; later versions of its code "
    "approximate it by tanh: for a model that was trained with those add --hidden_act gelu_new"
)
KNOWN = (
    "a Hugging Face folder or id, a run or checkpoint of ds_bert, a TF1 checkpoint (its prefix, "
    "such as DIR/bert_model.ckpt), a .pt or .bin of PyTorch, or a folder of DeepSpeed's files"
)


def read_model(
    name: str, config_file: str | None = None, vocab_file: str | None = None, seed: int = 42
) -> SourceModel:
    """Read a BERT from anywhere, complete, in fp32.

    Args:
        name: see `KNOWN`.
        config_file: its bert_config.json or config.json, where none lies beside it.
        vocab_file: its own vocabulary, where none lies beside it.
        seed: of the weights of a head that it lacks.

    Raises:
        ConfigurationError: nothing that is known, no configuration, or no BERT's.
        CheckpointError: damaged, incomplete, or of an architecture that is not BERT's.
        DataError: its vocabulary is damaged.
    """
    path = Path(name)
    is_hugging_face = (path / "config.json").is_file() and hugging_face.has_weights(path)
    if not is_hugging_face and (prefix := google.find_prefix(path)):
        model = _read_google(prefix, config_file, vocab_file)
    elif not is_hugging_face and (folder := zero_shards.find_shards(path)):
        model = _read_zero(folder, config_file, vocab_file)
    elif path.is_file():
        model = _read_file(path, config_file, vocab_file)
    else:
        model = _read_folder(name, config_file, vocab_file)
    complete(model, seed)
    return model


def _read_google(prefix: Path, config_file: str | None, vocab_file: str | None) -> SourceModel:
    config = find_config(config_file, [prefix.parent])
    weights, left_out = google.read_checkpoint(prefix, config)
    vocabulary = find_vocabulary(vocab_file, [prefix.parent])
    model = SourceModel("TF1 checkpoint", str(prefix), config, weights, vocabulary)
    model.left_out = left_out
    model.notes = [GELU] if config.hidden_act == "gelu" else []
    return model


def _read_zero(folder: Path, config_file: str | None, vocab_file: str | None) -> SourceModel:
    weights, kind = zero_shards.read_shards(folder)
    weights = translate(
        weights, str(folder)
    )  # first: whatever its configuration, pre-LN is refused
    around = [folder, folder.parent, folder.parent / "hf"]  # the last in checkpoints of ds_bert
    config, vocabulary = find_config(config_file, around), find_vocabulary(vocab_file, around)
    return SourceModel(kind, str(folder), config, weights, vocabulary)


def _read_file(path: Path, config_file: str | None, vocab_file: str | None) -> SourceModel:
    """A file of weights: safetensors, or of torch.save with the weights below "model" or as all."""
    if path.suffix == ".safetensors":
        weights = hugging_face.read_weight_file(path)
    else:
        content = load_torch(path)
        if isinstance(content, dict) and isinstance(content.get("model"), dict):
            content = content["model"]
        weights = hugging_face.as_state_dict(content, path)
    kind = "NVIDIA DeepLearningExamples" if is_nvidia(weights) else "PyTorch state dict"
    weights = translate(weights, str(path))
    config = find_config(config_file, [path.parent])
    vocabulary = find_vocabulary(vocab_file, [path.parent])
    return SourceModel(kind, str(path), config, weights, vocabulary)


def _read_folder(name: str, config_file: str | None, vocab_file: str | None) -> SourceModel:
    """A Hugging Face folder, also that of a run or a checkpoint, or a hub id."""
    place = Path(find_model(name)[0])
    folder = place if place.is_dir() else hugging_face.download(name)
    if folder is None or not hugging_face.has_weights(folder):
        raise ConfigurationError(f"model {name!r}: nothing known is there; expected {KNOWN}")
    config = find_config(config_file, [folder])
    weights = translate(hugging_face.read_weights(folder), name)
    architecture = (config.architectures or ["BERT"])[0]
    model = SourceModel(f"Hugging Face model ({architecture})", name, config, weights)
    model.may_be_padded = False
    model.vocabulary, model.do_lower_case = hugging_face.read_tokenizer(folder)
    if vocab_file is not None:
        model.vocabulary = find_vocabulary(vocab_file, [])
    return model
