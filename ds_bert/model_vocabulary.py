"""The vocabulary of a Hugging Face model."""

import json
from pathlib import Path

from ds_bert.errors import ConfigurationError, DataError
from ds_bert.vocabulary import Vocabulary


def read_model_vocabulary(name: str) -> Vocabulary:
    """Read a model's vocab.txt or, where there is none, the WordPiece tokens of tokenizer.json.

    Args:
        name: a model folder, or an id on the Hugging Face hub.

    Raises:
        ConfigurationError: no such folder or id in reach, or a model without such a vocabulary.
        DataError: the vocabulary lacks a special token or is damaged.
    """
    folder = Path(name) if Path(name).is_dir() else _download(name)
    if (folder / "vocab.txt").is_file():
        return Vocabulary.read(folder / "vocab.txt")
    if (folder / "tokenizer.json").is_file():
        return _read_tokenizer_json(folder / "tokenizer.json")
    raise ConfigurationError(
        f"model {name!r} has neither vocab.txt nor tokenizer.json; expected a BERT, or learn a "
        "vocabulary with --input_file"
    )


def _download(name: str) -> Path:
    """Folder with the vocabulary files of a hub id, from the cache where they are in it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=["vocab.txt", "tokenizer.json"]))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise ConfigurationError(
            f"model {name!r} is neither a folder nor a hub id in reach ({type(error).__name__}); "
            "check the name and the network, or learn a vocabulary with --input_file"
        ) from error


def _read_tokenizer_json(path: Path) -> Vocabulary:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind, ids = content["model"]["type"], content["model"]["vocab"]
        added = {token["content"]: token["id"] for token in content.get("added_tokens", ())}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path} is damaged or no tokenizer file ({error!r})") from error
    if kind != "WordPiece":
        raise ConfigurationError(f"{path} holds a {kind} tokenizer; BERT needs a WordPiece one")
    tokens = {index: token for token, index in (added | ids).items()}
    missing = next((index for index in range(len(tokens)) if index not in tokens), None)
    if missing is not None:
        raise DataError(f"{path} has {len(tokens):,} tokens, but none with the id {missing}")
    return Vocabulary((tokens[index] for index in range(len(tokens))), source=str(path))
