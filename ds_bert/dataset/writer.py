"""Writing a token store; the format is described in `ds_bert.dataset.store`."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.format import META, OFFSET_DTYPE, SENTENCE_END_DTYPE, VOCABULARY, Documents
from ds_bert.dataset.journal import Journal, Stage
from ds_bert.dataset.npy import HEADER_BYTES, NpyWriter, read_npy
from ds_bert.files import seal_file, write_text
from ds_bert.tokenizer.vocabulary import Vocabulary

DOCUMENTS = "documents"  # the stage that writes them


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


def selected_run(documents: Documents, numbers: NDArray[np.int64]) -> DocumentRun:
    """The documents of the given ascending numbers, few enough to be in memory."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    neighbours = [part for part in np.split(numbers, breaks) if len(part)]
    runs = [_run(documents, int(part[0]), int(part[-1]) + 1) for part in neighbours]
    return DocumentRun(*map(np.concatenate, zip(*runs or [_run(documents, 0, 0)], strict=True)))


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
    """Writes the files of one data set into a folder, in stages; `finish` comes last.

    Attributes:
        folder: where to.
        vocabulary: vocabulary of the tokens.
        lengths: what meta.json says about the instances of each length.
    """

    def __init__(self, name: str, folder: Path, vocabulary: Vocabulary, journal: Journal) -> None:
        """Nothing is created before the first array is.

        Args:
            name: of the data set in the journal, which may serve several.
            folder: where to.
            vocabulary: vocabulary of the tokens.
            journal: what is done.
        """
        self.folder, self.vocabulary = folder, vocabulary
        self.lengths: dict[str, dict[str, Any]] = {}
        self._name, self._journal = name, journal
        self._files: dict[str, dict[str, Any]] = {}

    def run(self, stage: str, work: Callable[[Stage], None], **state: Any) -> dict[str, Any]:
        """Do a stage of this data set, or what is left of it; see `Journal.run`.

        Returns:
            the stage's state at its end.
        """
        name = f"{self._name}/{stage}"
        self._journal.run(name, self.folder, work, state)
        self._files |= self._journal.arrays(name)
        return self._journal.state(name)

    def is_done(self, stage: str) -> bool:
        """Whether a stage is complete."""
        return self._journal.is_done(f"{self._name}/{stage}")

    def scratch(self, name: str) -> "StoreWriter":
        """A store beside this one, for what is needed on the way."""
        return StoreWriter(
            f"{self._name}/{name}", self.folder.with_name(name), self.vocabulary, self._journal
        )

    def remove(self) -> None:
        """Remove the files of a scratch store; its stages stay done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def read(self, name: str, dtype: np.dtype) -> NDArray:
        """Memory-map an array that was written."""
        num_bytes = self._files[name]["bytes"]
        num_items = (num_bytes - HEADER_BYTES) // dtype.itemsize
        return read_npy(self.folder / f"{name}.npy", dtype, num_items, num_bytes)

    def write_documents(
        self, runs: Callable[[dict[str, Any]], Iterable[tuple[DocumentRun, float]]], **state: Any
    ) -> dict[str, Any]:
        """Write documents, or what is left of them.

        Args:
            runs: gives the runs that follow a state, each with the fraction of the work that is
                then done; changes the state before it gives a run.
            state: the state at the beginning.

        Returns:
            the state at the end.
        """

        def work(stage: Stage) -> None:
            files = [stage.array(name, dtype) for name, dtype in self._document_arrays().items()]
            if files[-1].num_items == 0:
                for offsets in files[-2:]:
                    offsets.append(np.zeros(1, OFFSET_DTYPE))
            for run, fraction in runs(stage.state):
                _append(run, *files)
                stage.step(fraction)

        return self.run(DOCUMENTS, work, **state)

    def documents(self) -> Documents:
        """Memory maps of the documents that were written."""
        return Documents(*(self.read(*array) for array in self._document_arrays().items()))

    def _document_arrays(self) -> dict[str, np.dtype]:
        """Names and dtypes of the fields of `Documents`."""
        return {
            "tokens": self.vocabulary.token_dtype,
            "sentence_ends": SENTENCE_END_DTYPE,
            "document_token_offsets": OFFSET_DTYPE,
            "document_sentence_offsets": OFFSET_DTYPE,
        }

    @property
    def counts(self) -> dict[str, int]:
        """Documents, sentences and tokens written."""
        tokens, sentence_ends, offsets, _ = self.documents()
        return {
            "documents": len(offsets) - 1,
            "sentences": len(sentence_ends),
            "tokens": len(tokens),
        }

    def finish(self, facts: dict[str, Any]) -> None:
        """Write the vocabulary and, last of all, meta.json.

        Args:
            facts: what meta.json says beside counts, lengths and files.
        """
        self.vocabulary.save(self.folder / VOCABULARY)
        seal_file(self.folder / VOCABULARY)
        meta = {**facts, "counts": self.counts, "lengths": self.lengths}
        meta["files"] = {f"{name}.npy": self._files[name] for name in sorted(self._files)}
        write_text(self.folder / META, json.dumps(meta, indent=1) + "\n")


def _append(
    run: DocumentRun,
    tokens: NpyWriter,
    sentence_ends: NpyWriter,
    token_offsets: NpyWriter,
    sentence_offsets: NpyWriter,
) -> None:
    token_offsets.append(_ends(run.num_tokens, tokens.num_items))
    sentence_offsets.append(_ends(run.num_sentences, sentence_ends.num_items))
    tokens.append(run.tokens)
    sentence_ends.append(run.sentence_ends)


def _ends(lengths: NDArray[np.int64], start: int) -> NDArray[np.uint64]:
    return (start + np.cumsum(lengths)).astype(OFFSET_DTYPE)
