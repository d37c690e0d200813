"""Whether Hugging Face's tokenizer reads text as ours did, and where it cannot.

Two questions. Is the exported tokenizer Hugging Face's BERT tokenizer of this vocabulary and
casing? If not, a file is wrong, and that is an error. And where do Hugging Face's rules differ from
Google's, which the model was trained with? That is counted and told.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, BertTokenizer

from ds_bert.dataset.store import TokenStore
from ds_bert.errors import CheckpointError
from ds_bert.text.blocks import read_lines
from ds_bert.text.inputs import find_inputs
from ds_bert.tokenizer.vocabulary import CONTINUATION, SPECIAL_TOKENS, Vocabulary
from ds_bert.tokenizer.wordpiece import WordPieceTokenizer

MAX_SENTENCES = 10_000
MAX_SLOW_SENTENCES = 1_000  # the tokenizer in Python is a hundred times as slow
_LONG_WORD = 100  # characters; longer words are unknown to Hugging Face's, to Google's above 200
_EXAMPLES = 3  # of a kind

SPECIAL = "special tokens written out in the text"
LONG_WORDS = f"words of more than {_LONG_WORD} characters"
CHARACTERS = "characters of which their tables say something else"
SIGMA = "a capital sigma, whose form they do not choose by its place"
OTHER = "no known reason"


@dataclass
class Parity:
    """How one tokenizer compares with ours.

    Attributes:
        program: the tokenizer.
        sentences, tokens: that were compared.
        kinds: sentences with other tokens, by reason.
        examples: by reason a few of them: text around the first difference, its tokens by ours and
            by theirs.
        characters: those of `CHARACTERS`, with the number of such sentences.
    """

    program: str
    sentences: int = 0
    tokens: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    characters: Counter[str] = field(default_factory=Counter)


def stored_sentences(store: TokenStore, vocabulary: Vocabulary, limit: int) -> Iterator[str]:
    """Sentences of a data set, evenly spread, put together from their tokens.

    Their words are as the tokenizer left them, perhaps lower-cased; unknown ones are missing.
    """
    documents, total = store.documents, len(store.documents.sentence_ends)
    numbers = np.arange(0, total, max(1, total // limit))
    places = np.searchsorted(documents.sentence_offsets, numbers, "right") - 1  # their documents
    for number, place in zip(numbers.tolist(), places.tolist(), strict=True):
        base = int(documents.token_offsets[place])
        is_first = int(documents.sentence_offsets[place]) == number
        first = base + (0 if is_first else int(documents.sentence_ends[number - 1]))
        last = base + int(documents.sentence_ends[number])
        ids = (int(token) for token in store.tokens[first:last])
        words = (vocabulary.tokens[token] for token in ids if token != vocabulary.unk_id)
        yield " ".join(words).replace(f" {CONTINUATION}", "")


def written_sentences(file: str, limit: int) -> Iterator[str]:
    """The first lines of a text that are not blank, as they are written.

    Raises:
        DataError: no such file, or it cannot be read.
    """
    blocks = (block for source in find_inputs([file]) for block in read_lines(source))
    lines = (line for block in blocks for line in block.decode("utf-8", "ignore").split("\n"))
    return islice(filter(None, map(str.strip, lines)), limit)


def sentences(text: str | None, store: TokenStore | None, vocabulary: Vocabulary) -> list[str]:
    """What to compare on: a text, else the data set's, else the words of the vocabulary."""
    if text is not None:
        return list(written_sentences(text, MAX_SENTENCES))
    if store is not None:
        return list(islice(stored_sentences(store, vocabulary, MAX_SENTENCES), MAX_SENTENCES))
    words = [token for token in vocabulary.tokens if token not in SPECIAL_TOKENS]
    return [token.removeprefix(CONTINUATION) for token in words]


def compare_tokenizers(
    folder: Path, vocabulary: Vocabulary, do_lower_case: bool, texts: Sequence[str]
) -> list[Parity]:
    """Compare the exported tokenizer, fast and in Python, with ours.

    Args:
        folder: the export.
        vocabulary: of the data.
        do_lower_case: of the data.
        texts: sentences, one line each.

    Raises:
        CheckpointError: a tokenizer is not the one of this vocabulary and casing.
    """
    ours = WordPieceTokenizer(vocabulary, do_lower_case)
    casing = {"do_lower_case": do_lower_case}
    pairs = [(AutoTokenizer, BertTokenizer(vocab=vocabulary.ids, **casing), len(texts))]
    if legacy := _legacy():
        reference = legacy(vocab_file=str(folder / "vocab.txt"), **casing)
        pairs.append((legacy, reference, MAX_SLOW_SENTENCES))
    found = []
    for kind, reference, limit in pairs:
        exported = kind.from_pretrained(folder, trust_remote_code=False)
        some = list(texts[:: max(1, len(texts) // limit)][:limit])
        name = f"{type(exported).__name__} ({'fast' if exported.is_fast else 'in Python'})"
        ids = _ids(exported, some)
        _require_reference(name, some, ids, _ids(reference, some))
        _require_pair(name, exported, vocabulary, (some[0], some[-1]), (ids[0], ids[-1]))
        found.append(_compare(name, exported, ours, some, ids))
    return found


def _legacy() -> Any:
    """The tokenizer in Python of transformers, where this version has one."""
    try:
        from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy
    except ImportError:
        return None
    return BertTokenizerLegacy


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    how = {"add_special_tokens": False, "return_token_type_ids": False}
    return tokenizer(list(texts), **how, return_attention_mask=False, verbose=False)["input_ids"]


def _require_reference(
    name: str, texts: Sequence[str], found: list[list[int]], expected: list[list[int]]
) -> None:
    for text, one, other in zip(texts, found, expected, strict=True):
        if one != other:
            raise CheckpointError(
                f"{name} of the export is not the tokenizer of the data's vocabulary and casing: "
                f"it reads {text[:60]!r} in another way; nothing was written"
            )


def _require_pair(
    name: str,
    tokenizer: Any,
    vocabulary: Vocabulary,
    texts: tuple[str, str],
    ids: tuple[list[int], list[int]],
) -> None:
    """A pair has to become [CLS] A [SEP] B [SEP], with segments as in training."""
    first, second = [vocabulary.cls_id, *ids[0], vocabulary.sep_id], [*ids[1], vocabulary.sep_id]
    found = tokenizer(*texts, return_token_type_ids=True, verbose=False)
    expected = (first + second, [0] * len(first) + [1] * len(second))
    if (found["input_ids"], found["token_type_ids"]) != expected:
        raise CheckpointError(
            f"{name} of the export makes {tokenizer.decode(found['input_ids'])[:80]!r} of a pair, "
            "expected [CLS] A [SEP] B [SEP] with segments 0 and 1; nothing was written"
        )


def _compare(
    name: str, theirs: Any, ours: WordPieceTokenizer, texts: Sequence[str], ids: list[list[int]]
) -> Parity:
    result = Parity(name, len(texts))
    for text, found in zip(texts, ids, strict=True):
        own = _own_ids(ours, text)
        result.tokens += len(own)
        if own != found:
            kind = _reason(text, theirs, ours, result.characters)
            result.kinds[kind] += 1
            some = result.examples.setdefault(kind, [])
            if len(some) < _EXAMPLES:
                some.append(_first_difference(ours.vocabulary, own, found))
    return result


def _own_ids(ours: WordPieceTokenizer, text: str) -> list[int]:
    return ours.encode(text.encode("utf-8")).tokens.tolist()


def _reason(text: str, theirs: Any, ours: WordPieceTokenizer, characters: Counter[str]) -> str:
    """The first known reason that applies to a sentence which both read differently."""
    if any(token in text for token in SPECIAL_TOKENS):
        return SPECIAL
    if any(len(word) > _LONG_WORD for word in text.split()):
        return LONG_WORDS
    if odd := [one for one in sorted(set(text)) if _differs(f"a{one}b", theirs, ours)]:
        characters.update(odd)
        return CHARACTERS
    return SIGMA if "Σ" in text else OTHER


def _differs(text: str, theirs: Any, ours: WordPieceTokenizer) -> bool:
    return _ids(theirs, [text])[0] != _own_ids(ours, text)


def _first_difference(vocabulary: Vocabulary, own: list[int], theirs: list[int]) -> tuple[str, str]:
    """A few tokens of both, from just before they part."""
    pairs = enumerate(zip(own, theirs, strict=False))
    place = next((n for n, (a, b) in pairs if a != b), min(len(own), len(theirs)))
    part = slice(max(0, place - 2), place + 4)
    shown = [" ".join(vocabulary.tokens[index] for index in ids[part]) for ids in (own, theirs)]
    return shown[0], shown[1]
