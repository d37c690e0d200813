"""Instances for masked-LM alone: whole sentences of one document, as many as fit.

Source: Liu et al. 2019, "RoBERTa", section 4.2 (DOC-SENTENCES).
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ds_bert.dataset.format import INSTANCE_DTYPE, Documents
from ds_bert.dataset.options import InstanceOptions
from ds_bert.instances.sentence_pairs import draw_target, end_of, first_sentence, write_row
from ds_bert.rng.streams import INSTANCES, fold_seed, start_stream


def build_doc_sentences(
    documents: Documents, options: InstanceOptions, copy: int, first: int, last: int
) -> NDArray:
    """Rows of the documents `first` to `last` - 1 in one copy of the corpus.

    A row never crosses the end of a document, so its last row may be short. A sentence that is
    longer than a sequence is cut; its rest begins the next row. No token is left out.

    Args:
        documents: the corpus.
        options: the sequence length and the rest.
        copy: number of the copy, from 0 to options.dupe_factor - 1; copies differ in which
            documents are cut into shorter rows.
        first: first document.
        last: the one after the last document.

    Returns:
        INSTANCE_DTYPE [N] with empty B, in the order of the corpus.
    """
    num_sentences = int(documents.sentence_offsets[last] - documents.sentence_offsets[first])
    num_tokens = int(documents.token_offsets[last] - documents.token_offsets[first])
    # A row ends with a sentence, or is full.
    rows = np.zeros(num_sentences + num_tokens // options.max_num_tokens, INSTANCE_DTYPE)
    num_rows = _build(
        documents,
        fold_seed(options.random_seed),
        copy,
        first,
        last,
        options.max_num_tokens,
        float(options.short_seq_prob),
        rows,
    )
    return rows[:num_rows]


@njit(cache=True, nogil=True)
def _build(documents, seed, copy, first, last, max_num_tokens, short_seq_prob, rows):
    stream = np.empty(2, np.uint64)
    num_rows = 0
    for document in range(first, last):
        start_stream(stream, seed, INSTANCES, copy, document)
        target = draw_target(stream, max_num_tokens, short_seq_prob)
        start = np.int64(documents.token_offsets[document])
        sentence = first_sentence(documents, document)
        after_last = first_sentence(documents, document + 1)
        while sentence < after_last:
            stop = end_of(documents, document, sentence)
            if stop - start > max_num_tokens:
                stop = start + max_num_tokens  # the same sentence goes on in the next row
            else:
                sentence += 1
                while sentence < after_last:
                    following = end_of(documents, document, sentence)
                    if following - start > target:
                        break
                    stop = following
                    sentence += 1
            write_row(rows[num_rows], start, stop - start, stop, 0, False)
            num_rows += 1
            start = stop
    return num_rows
