"""Weights, configuration and tokenizer of a Hugging Face folder, or of a model on the hub."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ds_bert import files
from ds_bert.errors import CheckpointError, ConfigurationError
from ds_bert.tokenizer.vocabulary import Vocabulary, read_model_vocabulary
from ds_bert.weights.torch_files import load_torch

SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
_SMALL = ["config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"]


def download(name: str) -> Path | None:
    """The folder of a hub id, from the cache where it is in it; None: no such id in reach."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_SMALL, f"{SAFETENSORS}*"]))
        if not any(folder.glob(f"{SAFETENSORS}*")):
            folder = Path(snapshot_download(name, allow_patterns=[*_SMALL, f"{TORCH}*"]))
    except (HFValidationError, HfHubHTTPError, OSError):
        return None
    return folder


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights as transformers writes them."""
    return any(any(folder.glob(f"{name}*")) for name in (SAFETENSORS, TORCH))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, whether in one file or in several with an index.

    Raises:
        CheckpointError: a file is missing, damaged, or holds more than data.
    """
    for name in (SAFETENSORS, TORCH):
        if (folder / name).is_file():
            return read_weight_file(folder / name)
        if (folder / f"{name}.index.json").is_file():
            weights = {}
            for part in _parts(folder / f"{name}.index.json"):
                weights.update(read_weight_file(folder / part))
            return weights
    raise CheckpointError(f"{folder} has neither {SAFETENSORS} nor {TORCH}; expected a model")


def _parts(index: Path) -> list[str]:
    try:
        content = files.parse_json(index.read_text(encoding="utf-8"))
        names = sorted(set(content["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged ({error!r}); copy it again") from None
    return [Path(name).name for name in names]  # beside the index, never elsewhere


def read_weight_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, safetensors or a state dict of torch.save.

    Raises:
        CheckpointError: not readable, damaged, or not a state dict.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged ({error}); copy it again") from None
    content = load_torch(path)
    return as_state_dict(content, path)


def as_state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a dict with their names; refuses what has none."""
    pairs = content.items() if isinstance(content, dict) else ()
    weights = {name: value for name, value in pairs if isinstance(value, Tensor)}
    if not weights:
        raise CheckpointError(f"{path} holds no weights by name, expected a state dict")
    return weights


def read_tokenizer(folder: Path) -> tuple[Vocabulary | None, bool | None]:
    """Vocabulary and casing of a folder's tokenizer, as far as its files say.

    Raises:
        DataError: the vocabulary is damaged.
    """
    try:
        vocabulary = read_model_vocabulary(str(folder))
    except ConfigurationError:
        vocabulary = None
    try:
        text = (folder / "tokenizer_config.json").read_text(encoding="utf-8")
        casing = files.parse_json(text).get("do_lower_case")
    except (OSError, ValueError, AttributeError):
        casing = None
    return vocabulary, casing if isinstance(casing, bool) else None
