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
      report.html                     figures of the corpus, for people

Special tokens, padding, segment ids and labels are not stored: they follow from the ranges.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert import files

FORMAT, VERSION = "ds_bert token store", 1
META, VOCABULARY = files.DATA_SET, "vocab.txt"

_RANGE_SENTENCES = 1 << 16  # of documents given to one worker at a time

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
        ("is_random_next", "u1"),
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


def document_ranges(sentence_offsets: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Documents `first` to `last` - 1 of each portion of work, about 65,536 sentences."""
    first, num_documents = 0, len(sentence_offsets) - 1
    while first < num_documents:
        end = sentence_offsets[first] + np.uint64(_RANGE_SENTENCES)
        last = int(np.searchsorted(sentence_offsets, end, "right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last
