"""Reading a token store: a corpus as token ids, and instances as pairs of ranges in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.format import (
    FORMAT,
    INSTANCE_DTYPE,
    META,
    TOKENS,
    VERSION,
    VOCABULARY,
    Corpus,
    Documents,
    StoredMasks,
    document_arrays,
    mask_arrays,
    neighbours,
    row_array,
)
from ds_bert.dataset.npy import read_npy
from ds_bert.dataset.options import InstanceOptions
from ds_bert.errors import DataError
from ds_bert.files import parse_json
from ds_bert.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True)
class InstanceTable:
    """The instances of one sequence length.

    Attributes:
        store: the tokens that the rows point into.
        rows: INSTANCE_DTYPE [N].
        options: how the instances were made.
        masks: stored masks, or None when masks are made for each batch.
        corpora: which rows are of which corpus, in order; none where the text has no such parts.
    """

    store: "TokenStore"
    rows: NDArray
    options: InstanceOptions
    masks: StoredMasks | None
    corpora: tuple[Corpus, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def arrays(self) -> list[str]:
        """Names of the arrays that batches are made of."""
        dtype = self.store.vocabulary.token_dtype
        masks = mask_arrays(self.max_seq_length, dtype) if self.masks is not None else ()
        return [row_array(self.max_seq_length), *masks, TOKENS.removesuffix(".npy")]

    @property
    def max_seq_length(self) -> int:
        """Tokens of the longest sequence, special tokens included."""
        return self.options.max_seq_length

    @property
    def max_predictions_per_seq(self) -> int:
        """Masked tokens of a sequence at most."""
        return self.options.max_predictions_per_seq


@dataclass(frozen=True)
class TokenStore:
    """An open data set; the arrays are memory maps.

    Attributes:
        folder: where it is.
        meta: content of meta.json.
        vocabulary: the vocabulary it was made with.
        documents: the tokens and where sentences and documents end.
    """

    folder: Path
    meta: dict[str, Any]
    vocabulary: Vocabulary
    documents: Documents

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a data set after checks that cost the same for any size.

        Raises:
            DataError: there is no finished data set, it is of a newer format, or a file is missing,
                truncated or from another data set.
        """
        folder = Path(folder)
        meta = read_meta(folder)
        vocabulary = Vocabulary.read(folder / VOCABULARY)
        with _damaged_meta(folder):
            _check_vocabulary(folder, meta["vocabulary"], vocabulary)
            counts = meta["counts"]
            num_offsets = counts["documents"] + 1
            numbers = (counts["tokens"], counts["sentences"], num_offsets, num_offsets)
            arrays = document_arrays(vocabulary.token_dtype).items()
            parts = {name: (dtype, n) for (name, dtype), n in zip(arrays, numbers, strict=True)}
            documents = Documents(*_read_arrays(folder, meta, parts))
        _check_last(folder, "document_token_offsets", documents.token_offsets, counts["tokens"])
        _check_last(
            folder, "document_sentence_offsets", documents.sentence_offsets, counts["sentences"]
        )
        return cls(folder, meta, vocabulary, documents)

    @property
    def tokens(self) -> NDArray:
        """Every token of the corpus, uint16 or uint32 [T]."""
        return self.documents.tokens

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.documents.token_offsets) - 1

    @property
    def fingerprint(self) -> str:
        """Hash of all that determines the data: input, vocabulary and options."""
        return self.meta["fingerprint"]

    @property
    def sequence_lengths(self) -> list[int]:
        """Sequence lengths that there are instances for, ascending."""
        with _damaged_meta(self.folder):
            return sorted(int(length) for length in self.meta["lengths"])

    @property
    def do_lower_case(self) -> bool:
        """Whether the text was lower-cased and stripped of accents."""
        return self.meta["do_lower_case"]

    def instances(self, max_seq_length: int) -> InstanceTable:
        """Instances of one sequence length.

        Raises:
            DataError: there are none of this length, or a file is missing or damaged.
        """
        if max_seq_length not in self.sequence_lengths:
            there_are = ", ".join(map(str, self.sequence_lengths))
            raise DataError(
                f"{self.folder} has no instances of max_seq_length {max_seq_length}, only of "
                f"{there_are}; run ds-bert preprocess with --max_seq_length {max_seq_length}"
            )
        with _damaged_meta(self.folder):
            length = self.meta["lengths"][str(max_seq_length)]
            options = InstanceOptions(**length["options"])
            corpora = self._corpora(length)
            num_instances, num_masked = length["num_instances"], length["num_stored_masks"]
            parts: dict[str, Any] = {row_array(max_seq_length): (INSTANCE_DTYPE, num_instances)}
            names = mask_arrays(max_seq_length, self.vocabulary.token_dtype)
            if num_masked is not None:
                numbers = (num_masked, num_masked, num_instances + 1)
                parts |= zip(names, zip(names.values(), numbers, strict=True), strict=True)
            rows, *stored = _read_arrays(self.folder, self.meta, parts)
        masks = StoredMasks(*stored) if stored else None
        if masks is not None:
            _check_last(self.folder, list(names)[-1], masks.offsets, num_masked)
        return InstanceTable(self, rows, options, masks, corpora)

    def _corpora(self, length: dict[str, Any]) -> tuple[Corpus, ...]:
        """Rows of each corpus, by what meta.json says of one sequence length."""
        records = self.meta.get("corpora", [])
        if not records:
            return ()
        corpora = [Corpus(record["name"], record["weight"], 0, 0) for record in records]
        numbers = [length["corpora"][corpus.name] for corpus in corpora]
        if min(numbers) < 1 or sum(numbers) != length["num_instances"]:
            raise ValueError(f"instances of corpora: {numbers}")
        return tuple(neighbours(corpora, numbers))


def read_meta(folder: Path) -> dict[str, Any]:
    """Content of a data set's meta.json.

    Raises:
        DataError: no finished data set, no readable metadata, or a format that is not this one.
    """
    try:
        meta = parse_json((folder / META).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{folder} is not a finished data set (no {META}); ds-bert preprocess makes one"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {folder / META}: {error}; copy the data set again, or rebuild it with "
            "ds-bert preprocess --overwrite"
        ) from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise DataError(f"{folder / META} does not describe a {FORMAT}; is this the right folder?")
    if meta.get("version") != VERSION:
        raise DataError(
            f"{folder} has format version {meta.get('version')}, this ds_bert reads {VERSION}; "
            "update ds_bert, or rebuild the data set with ds-bert preprocess --overwrite"
        )
    return meta


def _check_vocabulary(folder: Path, expected: dict[str, Any], found: Vocabulary) -> None:
    if found.sha256 != expected["sha256"] or found.size != expected["size"]:
        raise DataError(
            f"{folder / VOCABULARY} ({found.size:,} entries, sha256 {found.sha256[:8]}...) is not "
            f"the vocabulary of this data set ({expected['size']:,} entries, sha256 "
            f"{expected['sha256'][:8]}...); copy the data set again or rebuild it"
        )


def _read_arrays(folder: Path, meta: dict[str, Any], parts: dict) -> Iterator[NDArray]:
    for name, (dtype, num_items) in parts.items():
        record = meta["files"][f"{name}.npy"]
        yield read_npy(folder / f"{name}.npy", dtype, num_items, record["bytes"])


def _check_last(folder: Path, name: str, offsets: NDArray, expected: int) -> None:
    if offsets[0] != 0 or offsets[-1] != expected:
        raise DataError(
            f"{folder / name}.npy runs from {offsets[0]:,} to {offsets[-1]:,}, expected 0 to "
            f"{expected:,}; the file is damaged, rebuild the data set"
        )


@contextmanager
def _damaged_meta(folder: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / META} is damaged ({error!r}); rebuild the data set") from error


def stored_report(store: TokenStore) -> dict[str, Any]:
    """The report in a data set's meta.json.

    Raises:
        DataError: the data set was made without one.
    """
    if "report" not in store.meta:
        raise DataError(
            f"{store.folder} has no corpus report, it was made by an older ds_bert or by another "
            "program; ds-bert preprocess makes data sets with a report"
        )
    return store.meta["report"]


def token_counts(store: TokenStore, max_tokens: int | None = None) -> NDArray[np.int64]:
    """How often each entry of the vocabulary stands in the tokens, or in the first of them."""
    tokens, counts = store.tokens[:max_tokens], np.zeros(store.vocabulary.size, np.int64)
    for start in range(0, len(tokens), 1 << 24):
        counts += np.bincount(tokens[start : start + (1 << 24)], minlength=len(counts))
    return counts


def unigram_entropy(store: TokenStore) -> float:
    """Entropy in nats of the token distribution of a data set.

    A model that knows only how frequent each token is reaches this masked-LM loss.
    """
    counts = token_counts(store)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
