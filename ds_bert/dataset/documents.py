"""Documents as tokens: runs of them in memory, and the arrays on disk that hold all of them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.format import SENTENCE_END_DTYPE, Documents, document_arrays
from ds_bert.dataset.npy import NpyWriter, append_ends
from ds_bert.tokenizer.wordpiece import EncodedText

_RANGE_SENTENCES = 1 << 16  # of documents given to one worker at a time


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
    """The documents of a text that was tokenized."""
    token_ends = text.sentence_ends[text.document_ends - 1]
    num_tokens = np.diff(token_ends, prepend=0)
    num_sentences = np.diff(text.document_ends, prepend=0)
    starts = np.repeat(token_ends - num_tokens, num_sentences)
    sentence_ends = (text.sentence_ends - starts).astype(SENTENCE_END_DTYPE)
    return DocumentRun(text.tokens, sentence_ends, num_tokens, num_sentences)


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


def document_ranges(sentence_offsets: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Documents `first` to `last` - 1 of each portion of work, about 65,536 sentences."""
    first, num_documents = 0, len(sentence_offsets) - 1
    while first < num_documents:
        end = sentence_offsets[first] + np.uint64(_RANGE_SENTENCES)
        last = int(np.searchsorted(sentence_offsets, end, "right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


class DocumentFiles:
    """The arrays of `Documents`, to append to."""

    def __init__(
        self, open_array: Callable[[str, np.dtype], NpyWriter], token_dtype: np.dtype
    ) -> None:
        """Open them at the end of what they hold."""
        self._tokens, self._sentence_ends, self._token_offsets, self._sentence_offsets = (
            open_array(name, dtype) for name, dtype in document_arrays(token_dtype).items()
        )

    @property
    def num_tokens(self) -> int:
        """Tokens so far."""
        return self._tokens.num_items

    def append(self, run: DocumentRun) -> None:
        """Append some documents."""
        append_ends(self._token_offsets, run.num_tokens, self._tokens)
        append_ends(self._sentence_offsets, run.num_sentences, self._sentence_ends)
        self._tokens.append(run.tokens)
        self._sentence_ends.append(run.sentence_ends)
