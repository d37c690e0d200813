"""Instances in fast mode: every document has its own random stream in every copy.

Any range of documents can be worked on anywhere, in any order, and gives the same rows.
"""

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
from ds_bert.dataset.format import INSTANCE_DTYPE, Documents
from ds_bert.dataset.options import MLM, MLM_NSP, MLM_SOP, InstanceOptions
from ds_bert.instances.doc_sentences import doc_sentences
from ds_bert.instances.sentence_order import ordered_pairs
from ds_bert.instances.sentence_pairs import draw_target, first_sentence, next_pair
from ds_bert.rng.streams import INSTANCES, fold_seed, start_stream

_CORPUS_ORDER = np.empty(0, np.int64)


def build_instances(
    documents: Documents, options: InstanceOptions, copy: int, first: int, last: int
) -> NDArray:
    """Rows of the documents `first` to `last` - 1 in one copy of the corpus.

    Args:
        documents: the whole corpus, since a random next segment comes from anywhere in it.
        options: the sequence length and the rest.
        copy: number of the copy, from 0 to options.dupe_factor - 1.
        first: first document.
        last: the one after the last document.

    Returns:
        INSTANCE_DTYPE [N], in the order of the corpus.

    Source: pairs as google-research/bert, create_pretraining_data.py, apart from the random
    numbers; pairs in either order: `ordered_pairs`; whole sentences: `doc_sentences`.
    """
    num_sentences = int(documents.sentence_offsets[last] - documents.sentence_offsets[first])
    num_tokens = int(documents.token_offsets[last] - documents.token_offsets[first])
    # A row uses up a sentence or more, or is full.
    rows = np.zeros(num_sentences + num_tokens // options.max_num_tokens, INSTANCE_DTYPE)
    num_rows = _BUILDERS[options.objective](
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


@compiled
def _pairs(documents, seed, copy, first, last, max_num_tokens, short_seq_prob, rows):
    stream = np.empty(2, np.uint64)
    num_rows = 0
    for document in range(first, last):
        start_stream(stream, seed, INSTANCES, copy, document)
        target = draw_target(stream, max_num_tokens, short_seq_prob)
        sentence = first_sentence(documents, document)
        while sentence < first_sentence(documents, document + 1):
            sentence = next_pair(
                stream,
                documents,
                _CORPUS_ORDER,
                document,
                sentence,
                target,
                max_num_tokens,
                rows[num_rows],
            )
            num_rows += 1
    return num_rows


_BUILDERS = {MLM_NSP: _pairs, MLM_SOP: ordered_pairs, MLM: doc_sentences}
