"""Pseudo-perplexity: every token of a sentence predicted from all the others.

Unlike the perplexity of masked-LM, which is about 15 % of the tokens with as many others hidden, it
does not depend on the data set's masks, so models of one vocabulary can be compared by it anywhere.

Sources: Salazar et al. 2020, "Masked Language Model Scoring", section 2.2; Kauf, Ivanova 2023, "A
Better Way to Do Masked Language Model Scoring" (the rest of a word is hidden as well, since it
would give the token away: "word-l2r").
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ds_bert.dataset.store import InstanceTable
from ds_bert.errors import DataError
from ds_bert.evaluation.bootstrap import Ratio, estimates, summed
from ds_bert.evaluation.metrics import perplexity
from ds_bert.evaluation.samples import Question, answers, sentences
from ds_bert.evaluation.slices import as_fields
from ds_bert.model.bert import Scores, UnpaddedBert

TOKEN, WORD_L2R = "token", "word_l2r"


def score_sentences(
    model: UnpaddedBert, table: InstanceTable, device: torch.device, batch_size: int, number: int
) -> dict[str, Any]:
    """Pseudo-perplexity over some sentences of the text, each alone between [CLS] and [SEP].

    Args:
        model: on `device`.
        table: instances of the text; sentences that do not fit into a sequence are left out.
        device: where the batches go.
        batch_size: sequences per forward pass and rank.
        number: sentences, always the same ones; a sentence of L tokens costs 2 L sequences.

    Returns:
        "num_sentences", "num_tokens"; "token" and "word_l2r", exp of the mean over all tokens, each
        with an interval by document; the same on every rank.

    Raises:
        DataError: no sentence fits.
    """
    chosen = sentences(table, number)
    if not chosen:
        raise DataError(
            f"{table.store.folder} has no sentence of at most {table.max_seq_length - 2} tokens to "
            "compute a pseudo-perplexity of; choose a longer max_seq_length"
        )
    lengths = np.array([len(sentence.tokens) for sentence in chosen], np.int64)
    of_sentence = np.array([sentence.document for sentence in chosen], np.int64)
    numbers = np.unique(of_sentence, return_inverse=True)[1]
    documents, size = np.repeat(numbers, lengths), int(numbers.max(initial=-1)) + 1
    counts = np.bincount(documents, minlength=size).astype(np.float64)
    is_continuation = table.store.vocabulary.is_continuation
    ratios = {}
    for way in (TOKEN, WORD_L2R):
        questions = [
            question
            for sentence in chosen
            for question in _questions(sentence.tokens, is_continuation, way == WORD_L2R)
        ]
        title = f"pseudo-perplexity, {way}"
        losses = answers(
            model, table.store.vocabulary, questions, device, batch_size, _losses, title
        )
        ratios[way] = Ratio(summed(losses, documents, size), counts)
    found = {key: estimate.through(perplexity) for key, estimate in estimates(ratios).items()}
    result: dict[str, Any] = {"num_sentences": len(chosen), "num_tokens": int(lengths.sum())}
    for key, estimate in found.items():
        result |= as_fields(key, estimate)
    return result


def _losses(scores: Scores) -> Tensor:
    return scores.losses().loss


def _questions(
    tokens: NDArray[np.int64], is_continuation: NDArray[np.bool_], rest_of_word: bool
) -> Iterator[Question]:
    """One for each token; with it the rest of its word is hidden, or nothing."""
    goes_on = is_continuation[tokens]
    for place in range(len(tokens)):
        last = place + 1
        while rest_of_word and last < len(tokens) and goes_on[last]:
            last += 1
        yield Question(tokens, place, range(place, last))
