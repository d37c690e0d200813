"""Writing a token store; the format is described in `ds_bert.store`."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.manifest import seal_file, write_text
from ds_bert.npy_file import NpyWriter, read_npy
from ds_bert.store import (
    META,
    OFFSET_DTYPE,
    SENTENCE_END_DTYPE,
    VOCABULARY,
    Documents,
)
from ds_bert.vocabulary import Vocabulary
from ds_bert.wordpiece import EncodedText


class DocumentRun(NamedTuple):
    """Some documents in a row.

    Attributes:
        tokens: token dtype [T].
        sentence_ends: uint32 [S], counted from the first token of the sentence's document.
        num_tokens: int64 [D], tokens of each document.
        num_sentences: int64 [D], sentences of each document.
    """

    tokens: NDArray
    sentence_ends: NDArray[np.uint32]
    num_tokens: NDArray[np.int64]
    num_sentences: NDArray[np.int64]


def encoded_run(text: EncodedText) -> DocumentRun:
    """The documents of an encoded text."""
    token_ends = text.sentence_ends[text.document_ends - 1]
    num_tokens = np.diff(token_ends, prepend=0)
    num_sentences = np.diff(text.document_ends, prepend=0)
    starts = np.repeat(token_ends - num_tokens, num_sentences)
    sentence_ends = (text.sentence_ends - starts).astype(SENTENCE_END_DTYPE)
    return DocumentRun(text.tokens, sentence_ends, num_tokens, num_sentences)


def selected_runs(documents: Documents, numbers: NDArray[np.int64]) -> Iterator[DocumentRun]:
    """The documents of the given ascending numbers, neighbours in one run."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    for part in np.split(numbers, breaks):
        if len(part):
            yield _run(documents, int(part[0]), int(part[-1]) + 1)


def _run(documents: Documents, first: int, last: int) -> DocumentRun:
    token_offsets = documents.token_offsets[first : last + 1].astype(np.int64)
    sentence_offsets = documents.sentence_offsets[first : last + 1].astype(np.int64)
    return DocumentRun(
        documents.tokens[token_offsets[0] : token_offsets[-1]],
        documents.sentence_ends[sentence_offsets[0] : sentence_offsets[-1]],
        np.diff(token_offsets),
        np.diff(sentence_offsets),
    )


class StoreWriter:
    """Writes the files of one data set into a folder; `finish` comes last.

    Attributes:
        folder: where to.
        vocabulary: vocabulary of the tokens.
        counts: documents, sentences and tokens written.
        lengths: what meta.json says about the instances of each length.
    """

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        """Create the folder if it does not exist."""
        folder.mkdir(exist_ok=True)
        self.folder, self.vocabulary = folder, vocabulary
        self.counts = {"documents": 0, "sentences": 0, "tokens": 0}
        self.lengths: dict[str, dict[str, Any]] = {}
        self._files: dict[str, Any] = {}

    @contextmanager
    def array(self, name: str, dtype: np.dtype) -> Iterator[NpyWriter]:
        """A writer of the array `name`, for example "seq128/instances"."""
        path = self.folder / f"{name}.npy"
        path.parent.mkdir(exist_ok=True)
        with NpyWriter(path, dtype) as writer:
            yield writer
            self._files[f"{name}.npy"] = writer.close()

    def read(self, name: str, dtype: np.dtype, num_items: int) -> NDArray:
        """Memory-map an array that was written."""
        path = self.folder / f"{name}.npy"
        return read_npy(path, dtype, num_items, self._files[f"{name}.npy"]["bytes"])

    def write_documents(self, runs: Iterable[DocumentRun]) -> Documents:
        """Write the documents of all runs; returns memory maps of them."""
        token_dtype = self.vocabulary.token_dtype
        with (
            self.array("tokens", token_dtype) as tokens,
            self.array("sentence_ends", SENTENCE_END_DTYPE) as sentence_ends,
            self.array("document_token_offsets", OFFSET_DTYPE) as token_offsets,
            self.array("document_sentence_offsets", OFFSET_DTYPE) as sentence_offsets,
        ):
            for offsets in (token_offsets, sentence_offsets):
                offsets.append(np.zeros(1, OFFSET_DTYPE))
            for run in runs:
                token_offsets.append(_ends(run.num_tokens, tokens.num_items))
                sentence_offsets.append(_ends(run.num_sentences, sentence_ends.num_items))
                tokens.append(run.tokens)
                sentence_ends.append(run.sentence_ends)
                self.counts["documents"] += len(run.num_tokens)
            self.counts["sentences"] = sentence_ends.num_items
            self.counts["tokens"] = tokens.num_items
        num_offsets = self.counts["documents"] + 1
        return Documents(
            self.read("tokens", token_dtype, self.counts["tokens"]),
            self.read("sentence_ends", SENTENCE_END_DTYPE, self.counts["sentences"]),
            self.read("document_token_offsets", OFFSET_DTYPE, num_offsets),
            self.read("document_sentence_offsets", OFFSET_DTYPE, num_offsets),
        )

    def finish(self, facts: dict[str, Any]) -> None:
        """Write the vocabulary and, last of all, meta.json.

        Args:
            facts: what meta.json says beside counts, lengths and files.
        """
        self.vocabulary.save(self.folder / VOCABULARY)
        seal_file(self.folder / VOCABULARY)
        meta = {**facts, "counts": self.counts, "lengths": self.lengths}
        meta["files"] = dict(sorted(self._files.items()))
        write_text(self.folder / META, json.dumps(meta, indent=1) + "\n")


def _ends(lengths: NDArray[np.int64], start: int) -> NDArray[np.uint64]:
    return (start + np.cumsum(lengths)).astype(OFFSET_DTYPE)
