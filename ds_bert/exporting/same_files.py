"""Whether every small file of an exported folder says the same of vocabulary, casing and sizes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ds_bert import files
from ds_bert.errors import CheckpointError
from ds_bert.tokenizer.vocabulary import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK, Vocabulary

SPECIAL_MAP = "special_tokens_map.json"
_SPECIAL = {
    "unk_token": UNK,
    "sep_token": SEP,
    "pad_token": PAD,
    "cls_token": CLS,
    "mask_token": MASK,
}


def write_special_tokens(folder: Path) -> None:
    """The file that transformers wrote up to version 4, for programs that look for it."""
    files.write_text(folder / SPECIAL_MAP, json.dumps(_SPECIAL, indent=2) + "\n")


def check_files(folder: Path, vocabulary: Vocabulary, do_lower_case: bool, positions: int) -> int:
    """Compare what the files of an export say with what they have to.

    Args:
        folder: the export.
        vocabulary: of the data.
        do_lower_case: of the data.
        positions: of the model, in tokens.

    Returns:
        the number of facts.

    Raises:
        CheckpointError: lists what is wrong.
    """
    facts = list(_facts(folder, vocabulary, do_lower_case, positions))
    wrong = [
        f"{file} says {name} {found!r} instead of {expected!r}"
        for file, name, found, expected in facts
        if found != expected
    ]
    if wrong:
        raise CheckpointError(f"{'; '.join(wrong)}; nothing was written, train or convert again")
    return len(facts)


def _facts(
    folder: Path, vocabulary: Vocabulary, do_lower_case: bool, positions: int
) -> Iterator[tuple[str, str, Any, Any]]:
    """File, name, found and expected value."""
    found = Vocabulary.read(folder / "vocab.txt").sha256
    yield "vocab.txt", "sha256", found[:12], vocabulary.sha256[:12]
    config = _read(folder / "config.json")
    yield "config.json", "model_type", config.get("model_type"), "bert"
    yield "config.json", "pad_token_id", config.get("pad_token_id"), vocabulary.pad_id
    yield "config.json", "max_position_embeddings", config.get("max_position_embeddings"), positions
    fits = config.get("vocab_size", 0) >= vocabulary.size
    yield "config.json", "vocab_size at least that of vocab.txt", fits, True
    settings = _read(folder / "tokenizer_config.json")
    for name, expected in {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": do_lower_case,
        "tokenize_chinese_chars": True,
        "model_max_length": positions,
        **_SPECIAL,
    }.items():
        yield "tokenizer_config.json", name, settings.get(name), expected
    accents = settings.get("strip_accents")  # null: as do_lower_case
    yield "tokenizer_config.json", "strip_accents", accents in (None, do_lower_case), True
    for name, token in _SPECIAL.items():
        yield SPECIAL_MAP, name, _read(folder / SPECIAL_MAP).get(name), token
    if (folder / "tokenizer.json").is_file():
        yield from _facts_of_fast(_read(folder / "tokenizer.json"), vocabulary, do_lower_case)


def _facts_of_fast(
    content: dict[str, Any], vocabulary: Vocabulary, do_lower_case: bool
) -> Iterator[tuple[str, str, Any, Any]]:
    rules, file = content["normalizer"], "tokenizer.json"
    yield file, "lowercase", rules["lowercase"], do_lower_case
    yield file, "strip_accents", rules["strip_accents"] in (None, do_lower_case), True
    yield file, "handle_chinese_chars", rules["handle_chinese_chars"], True
    yield file, "clean_text", rules["clean_text"], True
    yield file, "vocab as in vocab.txt", content["model"]["vocab"] == vocabulary.ids, True
    special = {token["content"]: token["id"] for token in content["added_tokens"]}
    yield file, "added_tokens", special, {token: vocabulary.ids[token] for token in SPECIAL_TOKENS}


def _read(path: Path) -> dict[str, Any]:
    try:
        return files.parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} of the export is damaged ({error})") from None
