"""Whole sentences of one document, as many as fit: instances for masked-LM alone.

Source: Liu et al. 2019, "RoBERTa", section 4.2 (DOC-SENTENCES).
"""

import numpy as np

from ds_bert.compiled import compiled
from ds_bert.instances.sentence_pairs import draw_target, end_of, first_sentence, write_row
from ds_bert.rng.streams import INSTANCES, start_stream


@compiled
def doc_sentences(documents, seed, copy, first, last, max_num_tokens, short_seq_prob, rows):
    """Make the rows, with empty B, of the documents `first` to `last` - 1; returns how many.

    A row never crosses the end of a document, so its last row may be short. A sentence that is
    longer than a sequence is cut; its rest begins the next row. No token is left out. Copies differ
    in which documents are cut into shorter rows.
    """
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
