"""WordPiece vocabulary: a text file with one token per line; the line number is the token's id."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ds_bert.errors import ConfigurationError, DataError
from ds_bert.files import parse_json, sync_folder

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)
CONTINUATION = "##"


class Vocabulary:
    """Tokens and their ids, with the rules of Google's `load_vocab`.

    A token is a line without the Unicode white space around it. A token that stands on several
    lines is accepted: its id is the last line, its place among `replacement_ids` the first.

    Attributes:
        tokens: token of each id.
        ids: id of each different token, in order of first appearance.
        pad_id: id of [PAD]; likewise `unk_id`, `cls_id`, `sep_id` and `mask_id`.

    Source: google-research/bert, tokenization.py (`load_vocab`).
    """

    def __init__(self, tokens: Iterable[str], source: str = "the vocabulary") -> None:
        """Take the tokens in order of their ids.

        Args:
            tokens: one string per id.
            source: what to call this vocabulary in error messages, for example its path.

        Raises:
            DataError: no tokens, a special token missing, or a token with a line break in it.
        """
        self.tokens = tuple(token.strip() for token in tokens)
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        _check(self.tokens, self.ids, source)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            self.ids[token] for token in SPECIAL_TOKENS
        )

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a vocabulary file (UTF-8; lines end at line feeds only, carriage returns vanish).

        Raises:
            DataError: the file is absent, unreadable, not UTF-8, empty, or lacks a special token.
        """
        try:
            text = Path(path).read_bytes().decode("utf-8")
        except OSError as error:
            raise DataError(
                f"cannot read the vocabulary file {path}: {error.strerror}; "
                "ds-bert create-vocab makes one"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not UTF-8 (byte {error.start}: {error.reason}); "
                "expected a vocabulary, a text file with one token per line"
            ) from error
        lines = text.replace("\r", "").split("\n")
        if lines[-1] == "":
            lines.pop()  # the end of the last line, not a line of its own
        return cls(lines, source=str(path))

    def save(self, path: str | Path) -> None:
        """Write the file that `read` reads; readers see it whole or not at all.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        path = Path(path)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(self.content)
                sync_folder(temporary)  # also of a file
                temporary.replace(path)
                sync_folder(path.parent)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write the vocabulary file {path}: {error.strerror}; name another place"
            ) from error

    def save_new(self, path: str | Path, overwrite: bool) -> bool:
        """Save, unless the file is there already.

        Args:
            path: where to.
            overwrite: replace a file with other content.

        Returns:
            whether the file was written; not if it has this very content already.

        Raises:
            ConfigurationError: there is another file and `overwrite` is off, or it cannot be
                written.
        """
        path = Path(path)
        if path.is_file() and path.read_bytes() == self.content:
            return False
        if path.exists() and not overwrite:
            raise ConfigurationError(
                f"{path} exists and is another vocabulary than the one just made; add --overwrite "
                "to replace it, or name another --vocab_file"
            )
        self.save(path.resolve())  # a link stays
        return True

    @property
    def size(self) -> int:
        """Number of ids (lines), duplicates included."""
        return len(self.tokens)

    @property
    def token_dtype(self) -> np.dtype:
        """Smallest type for token ids: uint16 up to 65,536 entries, else uint32."""
        return np.dtype(np.uint16 if self.size <= 2**16 else np.uint32)

    @cached_property
    def replacement_ids(self) -> NDArray[np.int64]:
        """Ids of Google's `vocab_words`, in order: what a random replacement is drawn from."""
        return np.fromiter(self.ids.values(), np.int64, len(self.ids))

    @cached_property
    def is_continuation(self) -> NDArray[np.bool_]:
        """For each id, whether the token goes on with the word before it (starts with "##")."""
        return np.array([token.startswith(CONTINUATION) for token in self.tokens])

    @property
    def duplicates(self) -> list[str]:
        """Tokens that stand on more than one line, in order of first appearance."""
        return [token for token, lines in Counter(self.tokens).items() if lines > 1]

    @property
    def sha256(self) -> str:
        """Hexadecimal hash of the tokens, one per line, in UTF-8."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def content(self) -> bytes:
        """What `save` writes: the tokens in UTF-8, a line feed after each."""
        return ("\n".join(self.tokens) + "\n").encode("utf-8")


def _check(tokens: tuple[str, ...], ids: dict[str, int], source: str) -> None:
    if not any(tokens):
        raise DataError(f"{source} is empty; expected one token per line")
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise DataError(
            f"{source} lacks {' '.join(missing)}; "
            f"a BERT vocabulary holds {' '.join(SPECIAL_TOKENS)}, each on a line of its own"
        )
    broken = next((token for token in tokens if "\n" in token or "\r" in token), None)
    if broken is not None:
        raise DataError(
            f"{source}: token {ids[broken]} ({broken!r}) holds a line break and cannot be saved"
        )


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
        content = parse_json(path.read_text(encoding="utf-8"))
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
