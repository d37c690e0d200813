"""The token store: a corpus as token ids on disk, and instances as pairs of ranges in it.

    DATASET/
      meta.json                       written last: a folder without it is not a data set
      vocab.txt
      tokens.npy                      uint16 or uint32: every token of the corpus once, in order
      sentence_ends.npy               uint32: end of each sentence, from its document's start
      document_token_offsets.npy      uint64 [documents + 1]
      document_sentence_offsets.npy   uint64 [documents + 1]
      seq128/instances.npy            rows of INSTANCE_DTYPE
      seq128/masked_*.npy             only where masks are stored
      left_out.npy                    uint64: numbers of documents of the input that were left out
      report.html                     figures of the corpus, for people

Special tokens, padding, segment ids and labels are not stored: they follow from the ranges.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ds_bert import files

FORMAT, VERSION = "ds_bert token store", 1
META, VOCABULARY, TOKENS = files.DATA_SET, "vocab.txt", "tokens.npy"
LEFT_OUT = "left_out"  # documents of the input that are not in the data set

SENTENCE_END_DTYPE = np.dtype("<u4")
OFFSET_DTYPE = np.dtype("<u8")
POSITION_DTYPE = np.dtype("<u2")
# One instance is [CLS] A [SEP] B [SEP], where A and B are ranges of tokens.npy. 24 bytes.
INSTANCE_DTYPE = np.dtype(
    [
        ("a_start", "<u8"),
        ("b_start", "<u8"),
        ("a_length", "<u2"),
        ("b_length", "<u2"),
        ("is_random_next", "u1"),  # objective mlm+sop: whether A and B are swapped
        ("reserved", "u1", (3,)),
    ]
)


class Documents(NamedTuple):
    """A corpus in arrays (memory maps, or views of them).

    Attributes:
        tokens: uint16 or uint32 [T], token ids without special tokens.
        sentence_ends: uint32 [S], counted from the first token of the sentence's document.
        token_offsets: uint64 [D + 1], first token of each document.
        sentence_offsets: uint64 [D + 1], first sentence of each document.
    """

    tokens: NDArray
    sentence_ends: NDArray[np.uint32]
    token_offsets: NDArray[np.uint64]
    sentence_offsets: NDArray[np.uint64]

    def part(self, corpus: "Corpus") -> Self:
        """The documents of one corpus, numbered from 0."""
        ends = slice(corpus.first, corpus.last + 1)
        return self._replace(
            token_offsets=self.token_offsets[ends], sentence_offsets=self.sentence_offsets[ends]
        )


class Corpus(NamedTuple):
    """One of several corpora that a data set is made of: neighbours among its documents or rows.

    Attributes:
        name: of the corpus; empty where there is only one.
        weight: its share of the samples of a run, relative to those of the others; None: not given.
        first: number of its first item.
        last: the one after its last item.
    """

    name: str
    weight: float | None
    first: int
    last: int

    @property
    def size(self) -> int:
        """Number of items."""
        return self.last - self.first

    @property
    def items(self) -> slice:
        """Its items, in an array of those of all."""
        return slice(self.first, self.last)


def neighbours(corpora: Iterable[Corpus], sizes: Iterable[int]) -> list[Corpus]:
    """The same corpora with so many items each, one after the other."""
    ends = list(accumulate(sizes, initial=0))
    stretches = zip(corpora, ends[:-1], ends[1:], strict=True)
    return [corpus._replace(first=first, last=last) for corpus, first, last in stretches]


class StoredMasks(NamedTuple):
    """Masks made once for all; those of instance i are the items offsets[i] to offsets[i + 1].

    Attributes:
        positions: uint16 [M], ascending positions in [CLS] A [SEP] B [SEP].
        replacements: token dtype [M], the id that the model sees there.
        offsets: uint64 [N + 1].
    """

    positions: NDArray[np.uint16]
    replacements: NDArray
    offsets: NDArray[np.uint64]

    def find(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many masks each of some instances has, and the items of all of them in a row."""
        starts = self.offsets[numbers].astype(np.int64)
        counts = self.offsets[numbers + 1].astype(np.int64) - starts
        # Mask k of an instance is item start + k of the files, and number before + k of the row,
        # where `before` masks of earlier instances stand. So numbers are off by start - before.
        before = np.cumsum(counts) - counts
        return counts, np.repeat(starts - before, counts) + np.arange(counts.sum())


def document_arrays(token_dtype: np.dtype) -> dict[str, np.dtype]:
    """Names and dtypes of the fields of `Documents`, in their order."""
    return {
        "tokens": token_dtype,
        "sentence_ends": SENTENCE_END_DTYPE,
        "document_token_offsets": OFFSET_DTYPE,
        "document_sentence_offsets": OFFSET_DTYPE,
    }


def table_name(max_seq_length: int) -> str:
    """Folder of the arrays of one sequence length, and the stage that writes them."""
    return f"seq{max_seq_length}"


def row_array(max_seq_length: int) -> str:
    """Name of the array of rows of one sequence length."""
    return f"{table_name(max_seq_length)}/instances"


def mask_arrays(max_seq_length: int, token_dtype: np.dtype) -> dict[str, np.dtype]:
    """Names and dtypes of the fields of `StoredMasks`, in their order."""
    table = table_name(max_seq_length)
    return {
        f"{table}/masked_positions": POSITION_DTYPE,
        f"{table}/masked_replacements": token_dtype,
        f"{table}/masked_offsets": OFFSET_DTYPE,
    }
