"""Which documents are for training and which for validation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.format import Corpus
from ds_bert.dataset.options import MLM, MLM_NSP, MLM_SOP
from ds_bert.errors import DataError
from ds_bert.preprocessing.options import TRAIN, VALIDATION, PreprocessOptions
from ds_bert.rng.streams import SPLIT, keys, named_seed

# Of each corpus in each part; a random next sentence comes from another document.
MIN_DOCUMENTS = {MLM_NSP: 2, MLM_SOP: 1, MLM: 1}


def choose_parts(
    options: PreprocessOptions, corpora: Sequence[Corpus], is_kept: NDArray[np.bool_]
) -> dict[str, NDArray[np.bool_]]:
    """Divide the documents of each corpus.

    Args:
        options: share of the documents for validation, and the seed.
        corpora: which documents are of which corpus.
        is_kept: [D], false for documents that belong to no part.

    Returns:
        for each part, whether a document belongs to it, [D].

    Raises:
        DataError: a corpus has too few documents.
    """
    needed = MIN_DOCUMENTS[options.objective]
    for corpus in corpora:
        left = int(is_kept[corpus.items].sum())
        if options.deduplicate and left < needed:
            raise DataError(
                f"{_documents(left, corpus)} are left without near-duplicates, expected {needed} "
                "or more; give more text, or leave --deduplicate out"
            )
    is_validation = np.zeros_like(is_kept)
    if VALIDATION in options.folders:
        for corpus in corpora:
            items = corpus.items
            is_validation[items] = _validation(options, corpus, is_kept[items])
    chosen = {TRAIN: is_kept & ~is_validation, VALIDATION: is_validation}
    return {part: chosen[part] for part in options.folders}


def _validation(
    options: PreprocessOptions, corpus: Corpus, is_kept: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The documents with the smallest hashes; these take 8 bytes each, 16 while they are sorted."""
    needed, num_documents = MIN_DOCUMENTS[options.objective], int(is_kept.sum())
    wanted = max(needed, round(options.fraction * num_documents))
    if num_documents - wanted < needed:
        raise DataError(
            f"{_documents(num_documents, corpus)} cannot be divided into training and validation "
            f"data, each needs {needed}; give more text with blank lines between documents, or use "
            "--validation_fraction 0"
        )
    seed = named_seed(options.random_seed, corpus.name)
    hashes = keys(seed, SPLIT, 0, len(is_kept))  # no two are equal
    candidates = hashes[is_kept]
    candidates.partition(wanted - 1)
    return is_kept & (hashes <= candidates[wanted - 1])


def _documents(number: int, corpus: Corpus) -> str:
    return f"{number} documents" + (f" of corpus {corpus.name}" if corpus.name else "")
