"""The files of one data set, written in stages; `ds_bert.dataset.format` describes them."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.commit import FINISH
from ds_bert.dataset.documents import DocumentFiles, DocumentRun
from ds_bert.dataset.format import (
    FORMAT,
    INSTANCE_DTYPE,
    META,
    VERSION,
    VOCABULARY,
    Documents,
    StoredMasks,
    document_arrays,
    mask_arrays,
    row_array,
    table_name,
)
from ds_bert.dataset.journal import Journal, Stage, stage_name
from ds_bert.dataset.npy import HEADER_BYTES, NpyWriter, read_npy
from ds_bert.dataset.options import MLM_SOP, InstanceOptions
from ds_bert.dataset.sequences import (
    SequenceChunk,
    check_sequences,
    sequence_documents,
    sequence_rows,
)
from ds_bert.dataset.tables import RowChunk, TableFiles
from ds_bert.errors import DataError
from ds_bert.files import seal_file, write_text
from ds_bert.tokenizer.vocabulary import Vocabulary

DOCUMENTS = "documents"  # the stage that writes them

Chunk = TypeVar("Chunk")
State = dict[str, Any]
# A source is called with the state that it had reached, JSON values, and gives what follows, each
# with the fraction of the work that is then done. It changes the state before it gives: after a
# kill the state says what is written already, and the source is called again with it.
Source = Callable[[State], Iterable[tuple[Chunk, float]]]


class StoreWriter:
    """Writes the files of one data set, stage by stage; `finish` is the last.

    A stage that is done, by this run or an earlier one that was killed, is not done again.

    Attributes:
        folder: where to.
        vocabulary: vocabulary of the tokens.
        lengths: what meta.json says about the instances of each length.
    """

    def __init__(
        self, name: str, folder: Path, vocabulary: Vocabulary, journal: Journal, fingerprint: str
    ) -> None:
        """Made by `write_data_sets`. Nothing is created before the first array is."""
        self.folder, self.vocabulary = folder, vocabulary
        self.lengths: dict[str, dict[str, Any]] = {}
        self._name, self._journal, self._fingerprint = name, journal, fingerprint
        self._stages: set[str] = set()
        self._files: dict[str, dict[str, Any]] = {}

    def write_documents(self, source: Source[DocumentRun], state: State) -> State:
        """Write documents, or what is left of them.

        Args:
            source: gives runs of documents.
            state: its state at the beginning.

        Returns:
            its state at the end.
        """

        def work(stage: Stage) -> None:
            files = DocumentFiles(stage.array, self.vocabulary.token_dtype)
            for run, fraction in source(stage.state):
                files.append(run)
                stage.step(fraction)

        return self.run(DOCUMENTS, work, state)

    def write_rows(
        self, options: InstanceOptions, source: Source[RowChunk], state: State, *, has_masks: bool
    ) -> State:
        """Write the instances of one length as rows that point into the documents.

        Args:
            options: what they were made by.
            source: gives chunks of rows, in the order in which they are stored.
            state: its state at the beginning.
            has_masks: whether the chunks have masks.

        Returns:
            its state at the end.
        """

        def work(stage: Stage, files: TableFiles, state: State) -> None:
            for chunk, fraction in source(state):
                files.append(chunk)
                stage.step(fraction)

        return self._write_table(options, work, state, has_masks)

    def write_sequences(
        self,
        options: InstanceOptions,
        source: Source[SequenceChunk],
        state: State,
        *,
        has_masks: bool,
    ) -> State:
        """Write finished instances of one length, which bring their own text.

        Each becomes a document of one or two sentences, behind those that are there. Arguments and
        result are those of `write_rows`.

        Raises:
            DataError: a sequence does not fit the options or the vocabulary.
        """
        token_dtype = self.vocabulary.token_dtype

        def work(stage: Stage, files: TableFiles, state: State) -> None:
            documents = DocumentFiles(partial(self._go_on_with, stage), token_dtype)
            for chunk, fraction in source(state):
                check_sequences(chunk, options, self.vocabulary.size)
                files.append(sequence_rows(chunk, documents.num_tokens, token_dtype))
                documents.append(sequence_documents(chunk, token_dtype))
                stage.step(fraction)

        return self._write_table(options, work, state, has_masks)

    def _write_table(
        self,
        options: InstanceOptions,
        work: Callable[[Stage, TableFiles, State], None],
        state: State,
        has_masks: bool,
    ) -> State:
        length, dtype = options.max_seq_length, self.vocabulary.token_dtype

        def work_on_files(stage: Stage) -> None:
            files = TableFiles(stage.array, length, dtype, stage.state["counts"])
            work(stage, files, stage.state["source"])

        start = {"counts": TableFiles.new_counts(has_masks), "source": state}
        end = self.run(table_name(length), work_on_files, start)
        if end["counts"]["num_instances"] == 0:
            raise DataError(
                f"there are no instances of max_seq_length {length}; give some text"
                + ", documents of two sentences or more" * (options.objective == MLM_SOP)
            )
        self.lengths[str(length)] = {"options": options.record, **end["counts"]}
        return end["source"]

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the vocabulary and, last of all, meta.json.

        Args:
            facts: what meta.json says beside format, fingerprint, vocabulary, counts, lengths and
                files; `do_lower_case` must be among them, whether the text was lower-cased.
        """
        assert "do_lower_case" in facts, facts
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self._fingerprint,
            **facts,
            "vocabulary": {"sha256": self.vocabulary.sha256, "size": self.vocabulary.size},
            "counts": self.counts,
            "lengths": self.lengths,
            "files": {f"{name}.npy": self._files[name] for name in sorted(self._files)},
        }

        def work(stage: Stage) -> None:
            self.vocabulary.save(self.folder / VOCABULARY)
            seal_file(self.folder / VOCABULARY)
            write_text(self.folder / META, json.dumps(meta, indent=1) + "\n")

        self.run(FINISH, work, {})

    def run(self, stage: str, work: Callable[[Stage], None], state: State) -> State:
        """Do a stage of this data set, or what is left of it; see `Journal.run`.

        Returns:
            the stage's state at its end.
        """
        assert stage not in self._stages, f"stage {stage} is there already"
        self._stages.add(stage)
        name = stage_name(self._name, stage)
        self._journal.run(name, self.folder, work, state)
        self._files |= self._journal.arrays(name)
        return self._journal.state(name)

    def _go_on_with(self, stage: Stage, name: str, dtype: np.dtype) -> NpyWriter:
        """Open an array that earlier stages may have begun."""
        return stage.array(name, dtype, self._files.get(name))

    def scratch(self, name: str) -> "StoreWriter":
        """A store beside this one, for what is needed on the way."""
        folder, name = self.folder.with_name(name), stage_name(self._name, name)
        return StoreWriter(name, folder, self.vocabulary, self._journal, self._fingerprint)

    def remove(self) -> None:
        """Remove the files of a scratch store; its stages stay done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def documents(self) -> Documents:
        """Memory maps of the documents that were written."""
        return Documents(*self._read(document_arrays(self.vocabulary.token_dtype)))

    def rows(self, max_seq_length: int) -> NDArray:
        """Memory map of the rows of one length."""
        return self.array(row_array(max_seq_length), INSTANCE_DTYPE)

    def array(self, name: str, dtype: np.dtype) -> NDArray:
        """Memory map of any array that was written."""
        return next(self._read({name: dtype}))

    def masks(self, max_seq_length: int) -> StoredMasks:
        """Memory maps of the masks of one length."""
        return StoredMasks(*self._read(mask_arrays(max_seq_length, self.vocabulary.token_dtype)))

    def _read(self, arrays: dict[str, np.dtype]) -> Iterator[NDArray]:
        for name, dtype in arrays.items():
            num_bytes = self._files[name]["bytes"]
            num_items = (num_bytes - HEADER_BYTES) // dtype.itemsize
            yield read_npy(self.folder / f"{name}.npy", dtype, num_items, num_bytes)

    @property
    def counts(self) -> dict[str, int]:
        """Documents, sentences and tokens written."""
        tokens, sentence_ends, offsets, _ = self.documents()
        return {
            "documents": len(offsets) - 1,
            "sentences": len(sentence_ends),
            "tokens": len(tokens),
        }
