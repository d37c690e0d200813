"""Data and models that a command line of another system names, found as ours."""

import hashlib
import json
import math
import re
import secrets
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ds_bert import files
from ds_bert.dataset.format import META
from ds_bert.dataset.options import MLM_NSP
from ds_bert.dataset.store import TokenStore
from ds_bert.dialects.draft import Draft
from ds_bert.errors import ConfigurationError, DataError
from ds_bert.tokenizer.vocabulary import Vocabulary, read_model_vocabulary

_TEXT = {".txt", ".text", ".csv", ".tsv"}
_PACKED = (".gz", ".xz", ".bz2", ".zst")
_LINE = 1 << 16  # bytes of a first line that are looked at
_NOT_OURS = re.compile(r"\.(pt|pth|bin|ckpt)$|\.ckpt-\d+$")


def open_set(
    names: Sequence[str],
    *,
    vocabulary: str | None,
    cache_dir: str | None = None,
    max_seq_length: int | None = None,
    objective: str = MLM_NSP,
) -> TokenStore:
    """The data set of some files: ours as it is, finished instances imported, once.

    Args:
        names: files, globs or folders.
        vocabulary: model (folder or id) or vocab.txt that finished instances are of.
        cache_dir: where imported data sets stay; None: the usual place.
        max_seq_length: of finished instances, in tokens; None: as they are.
        objective: what data made of text would be for.

    Raises:
        ConfigurationError: they are text, with the commands that make data of it; or nothing has
            their vocabulary.
        DataError: absent, damaged, or not what they seem.
    """
    if len(names) == 1 and (Path(names[0]) / META).is_file():
        return TokenStore.open(names[0])
    if all(map(_is_text, names)):
        raise ConfigurationError(_text_message(names, vocabulary, objective))
    # numba takes half a second to import
    from ds_bert.bridges.cache import as_data_set
    from ds_bert.bridges.importing import ImportOptions

    def read() -> Vocabulary:
        if vocabulary is None:
            raise ConfigurationError(
                f"{names[0]}: which vocabulary is it of? Name a vocab.txt or a model with "
                "--vocab_file (Hugging Face: --tokenizer_name)"
            )
        path = Path(vocabulary)
        return Vocabulary.read(path) if path.is_file() else read_model_vocabulary(vocabulary)

    folder = as_data_set(
        ",".join(names),
        cache_dir=cache_dir or files.cache_folder() / "data_sets",
        vocabulary=read,
        options=ImportOptions(max_seq_length=max_seq_length),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    return TokenStore.open(folder)


def _is_text(name: str) -> bool:
    """Whether a file is text by its name or, where it may be both, by its first line."""
    path = Path(name)
    if path.is_file() and path.suffix in (".json", ".jsonl"):
        with path.open("rb") as file:
            first = file.readline(_LINE)
        return b'"text"' in first and b'"tokens"' not in first and b'"input_ids"' not in first
    inside = path.with_suffix("") if path.suffix in _PACKED else path
    return inside.suffix in _TEXT and not path.is_dir()


def _text_message(names: Sequence[str], vocabulary: str | None, objective: str) -> str:
    inputs = " ".join(map(shlex.quote, names))
    source = f"--model_name_or_path {vocabulary}" if vocabulary else f"--input_file {inputs}"
    first, flag = f"  ds-bert create-vocab {source}\n", ""
    if vocabulary and Path(vocabulary).is_file():
        first, flag = "", f" --vocab_file {vocabulary}"
    flag += "" if objective == MLM_NSP else f" --objective {objective}"
    return (
        f"{names[0]} is text; training takes data made of it. Type:\n{first}"
        f"  ds-bert preprocess --input_file {inputs}{flag} --output_dir data/train\n"
        "and give --train_data data/train --validation_data data/validation instead of the text"
    )


def length_of(store: TokenStore, asked: int | None) -> int:
    """Which instances of a data set are meant.

    Raises:
        ConfigurationError: it has several lengths, and none is asked for.
    """
    lengths = store.sequence_lengths
    if asked is None and len(lengths) > 1:
        found = ", ".join(map(str, lengths))
        raise ConfigurationError(f"{store.folder} has sequences of {found}; add --max_seq_length")
    return asked if asked is not None else lengths[0]


def steps_of_epoch(draft: Draft, num_rows: int, drop_last: bool) -> int:
    """Optimizer steps of an epoch as transformers counts them: whole batches of all ranks."""
    passes = num_rows / (draft.micro_batch * draft.world_size)
    passes = math.floor(passes) if drop_last else math.ceil(passes)
    return max(1, math.ceil(passes / (draft.batch // (draft.micro_batch * draft.world_size))))


def find_checkpoint(name: str) -> Path | None:
    """The checkpoint of ours that a name leads to: a run, step_N, or checkpoint-N as elsewhere."""
    path = Path(name)
    if (path / "hf").is_dir():
        return path
    latest = path / "checkpoints" / "latest"
    if latest.is_file():
        return latest.parent / latest.read_text(encoding="utf-8").strip()
    found = re.fullmatch(r"(?:checkpoint-|step_|ckpt_)(\d+)(?:\.pt)?", path.name)
    if found is None or path.exists():
        return None
    inside = path.parent / "checkpoints" / f"step_{found[1]}"
    return inside if inside.is_dir() else None


def put_model(draft: Draft, name: str, flag: str) -> str:
    """Start from trained weights; returns the folder or id that has their vocabulary.

    Raises:
        ConfigurationError: weights of a program that has to be converted first.
    """
    checkpoint = find_checkpoint(name)
    if checkpoint is None:
        refuse_foreign_weights(name, flag)
        draft.put("ds_bert.model", name, flag)
        return name
    draft.put("ds_bert.model", str(checkpoint / "hf" / "config.json"), flag)
    draft.put("ds_bert.init_from", str(checkpoint), flag)
    draft.say(flag, f"goes on from the weights of {checkpoint}")
    return str(checkpoint / "hf")


def refuse_foreign_weights(name: str, flag: str) -> None:
    """Refuse weights that are not a Hugging Face folder.

    Raises:
        ConfigurationError: with the command that converts them.
    """
    is_google = Path(f"{name}.index").is_file()
    if is_google or (_NOT_OURS.search(name) and not Path(name).is_dir()):
        raise ConfigurationError(
            f"--{flag} {name}: weights of another program; convert them, name the folder: ds-bert "
            f"convert-model --model {shlex.quote(name)} --output_dir models/converted"
        )


def model_file(values: dict[str, Any]) -> str:
    """A config.json with these values, below the cache; the same values give the same file."""
    text = json.dumps({"model_type": "bert", **values}, indent=2, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = files.cache_folder() / "models" / name / "config.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(secrets.token_hex(8))  # all ranks may write it at once
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    return str(path)


def config_of(name: str, flag: str) -> str:
    """The config.json that a file or folder is.

    Raises:
        ConfigurationError: neither.
    """
    path = Path(name)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file() or path.suffix != ".json":
        raise ConfigurationError(
            f"--{flag} {name}: no such config.json; save it, and name the file"
        )
    return str(path)


def vocabulary_beside(*names: str | None) -> str | None:
    """The first vocab.txt that there is: a file, or beside a file, or in a folder of these."""
    for name in filter(None, names):
        path = Path(name)
        for found in (path, path / "vocab.txt", path.parent / "vocab.txt"):
            if found.is_file() and found.suffix not in (".json", ".index"):
                return str(found)
    return None


def check_rows(store: TokenStore, length: int) -> int:
    """Number of instances of that length.

    Raises:
        DataError: the data set has no such length, or nothing.
    """
    num_rows = len(store.instances(length))
    if num_rows == 0:
        raise DataError(f"{store.folder} has no instance of {length} tokens; make it of more text")
    return num_rows
