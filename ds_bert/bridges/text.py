"""The text of a data set, as far as its tokens still tell it: a sentence a line.

What the tokenizer took away does not come back: case and accents of uncased data, white space, the
words that became [UNK]. Tokenized again, the text gives the same tokens, but for [UNK] and for
segments that begin inside of a word.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.documents import document_ranges
from ds_bert.dataset.store import TokenStore
from ds_bert.progress import Progress
from ds_bert.tokenizer.vocabulary import CONTINUATION


def write_text(store: TokenStore, path: Path) -> None:
    """Write the sentences of all documents on lines, a blank line after each document.

    Args:
        store: the data set. One of imported instances has a document for each instance, whose
            sentences are its segments.
        path: the file to write.
    """
    documents = store.documents
    words = [
        token.removeprefix(CONTINUATION) if token.startswith(CONTINUATION) else f" {token}"
        for token in store.vocabulary.tokens
    ]
    with path.open("w", encoding="utf-8") as file, Progress("text") as progress:
        for first, last in document_ranges(documents.sentence_offsets):
            token_offsets = documents.token_offsets[first : last + 1].astype(np.int64)
            offsets = documents.sentence_offsets[first : last + 1].astype(np.int64)
            ends = documents.sentence_ends[offsets[0] : offsets[-1]].astype(np.int64)
            ends += np.repeat(token_offsets[:-1] - token_offsets[0], np.diff(offsets))
            tokens = documents.tokens[token_offsets[0] : token_offsets[-1]]
            lines = _lines(tokens, ends, words)
            bounds = (offsets - offsets[0]).tolist()
            for start, stop in pairwise(bounds):
                file.write("\n".join([*lines[start:stop], "", ""]))
            progress.update(last / store.num_documents, tokens=len(tokens))


def _lines(tokens: NDArray, ends: NDArray[np.int64], words: list[str]) -> list[str]:
    pieces = list(map(words.__getitem__, tokens.tolist()))
    starts = [0, *ends.tolist()]
    return ["".join(pieces[start:stop]).lstrip(" ") for start, stop in pairwise(starts)]
