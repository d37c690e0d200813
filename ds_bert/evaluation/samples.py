"""Questions about sentences of the held-out text: tokens hidden, one of them asked for."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ds_bert import distributed
from ds_bert.dataset.store import InstanceTable
from ds_bert.evaluation.loop import EVALUATION_SEED, evaluating
from ds_bert.instances.examples import joined
from ds_bert.model.batch import Batch
from ds_bert.model.bert import Scores, UnpaddedBert
from ds_bert.progress import Progress
from ds_bert.rng.streams import MASKS, keys, permuted
from ds_bert.tokenizer.vocabulary import Vocabulary

NUM_GUESSES = 5
_MIN_TOKENS, _MIN_LETTERS = 6, 3  # of a sentence to show; of a word to ask for
_ORDER, _WORDS = 1, 1  # epochs: neither the order of sequences nor their masks


class Sentence(NamedTuple):
    """A sentence of the text.

    Attributes:
        tokens: int64 [L], without special tokens.
        document: its number in the store.
    """

    tokens: NDArray[np.int64]
    document: int


class Question(NamedTuple):
    """A sentence with hidden tokens.

    Attributes:
        tokens: int64 [L], the sentence.
        asked: index of the token that is asked for.
        hidden: indices of the tokens shown as [MASK].
    """

    tokens: NDArray[np.int64]
    asked: int
    hidden: range


def sentences(table: InstanceTable, number: int, min_tokens: int = 1) -> list[Sentence]:
    """The first of the text's sentences in a fixed random order that fit into a sequence.

    Args:
        table: instances of one sequence length.
        number: how many at most.
        min_tokens: shorter ones are passed over.
    """
    documents, found = table.store.documents, list[Sentence]()
    num_sentences = len(documents.sentence_ends)
    for start in range(0, num_sentences, 4 * number):
        places = np.arange(start, min(start + 4 * number, num_sentences))
        for sentence in permuted(places, num_sentences, EVALUATION_SEED, _ORDER):
            document = int(np.searchsorted(documents.sentence_offsets, sentence, "right")) - 1
            is_first = sentence == documents.sentence_offsets[document]
            first = 0 if is_first else int(documents.sentence_ends[sentence - 1])
            last, offset = documents.sentence_ends[sentence], documents.token_offsets[document]
            tokens = documents.tokens[int(offset) + first : int(offset) + int(last)]
            if min_tokens <= len(tokens) <= table.max_seq_length - 2:
                found.append(Sentence(tokens.astype(np.int64), document))
            if len(found) == number:
                return found
    return found


@torch.no_grad()
def answers(
    model: UnpaddedBert,
    vocabulary: Vocabulary,
    questions: Sequence[Question],
    device: torch.device,
    batch_size: int,
    read: Callable[[Scores], Tensor],
    title: str,
) -> NDArray:
    """What is read off the logits of each question, shared out over the ranks (a collective).

    Args:
        model: on `device`.
        vocabulary: of the questions.
        questions: N of them.
        device: where the batches go.
        batch_size: questions per forward pass and rank.
        read: of the scores of n questions a tensor [n, ...].
        title: what is done, for whoever waits.

    Returns:
        [N, ...], on every rank.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    mine, found = range(rank, len(questions), world_size), []
    with evaluating(model), Progress(title) if rank == 0 else nullcontext() as told:
        for start in range(0, len(mine), batch_size):
            part = [questions[number] for number in mine[start : start + batch_size]]
            scores = model.masked_lm_scores(_batch(part, vocabulary).to(device))
            found.append(read(scores).cpu().numpy())
            if told is not None:
                told.update((start + len(part)) / len(mine), sequences=len(part))
    parts = distributed.gather(np.concatenate(found) if found else None)
    result = np.empty((len(questions), *parts[0].shape[1:]), parts[0].dtype)
    for number, values in enumerate(parts):
        if values is not None:
            result[number::world_size] = values
    return result


def _batch(questions: Sequence[Question], vocabulary: Vocabulary) -> Batch:
    """Sequences [CLS] sentence [SEP]."""
    lengths = [len(question.tokens) + 2 for question in questions]
    starts = np.cumsum([0, *lengths])
    ids = np.concatenate(
        [[vocabulary.cls_id, *question.tokens, vocabulary.sep_id] for question in questions]
    )
    asked = np.array([q.asked for q in questions]) + starts[:-1] + 1
    labels = ids[asked]
    for question, start in zip(questions, starts, strict=False):
        ids[start + 1 + np.array(question.hidden)] = vocabulary.mask_id
    positions = np.concatenate([np.arange(length) for length in lengths])
    return Batch(
        input_ids=torch.from_numpy(ids.astype(np.int32)),
        token_type_ids=torch.zeros(len(ids), dtype=torch.int32),
        position_ids=torch.from_numpy(positions.astype(np.int32)),
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        masked_lm_positions=torch.from_numpy(asked),
        masked_lm_labels=torch.from_numpy(labels),
        next_sentence_labels=torch.zeros(len(questions), dtype=torch.int64),
        sequence_lengths=lengths,
    )


def fill_masks(
    model: UnpaddedBert, table: InstanceTable, device: torch.device, batch_size: int, number: int
) -> list[dict[str, Any]]:
    """Sentences of the held-out text with a word hidden, and the model's best guesses.

    The word is one token and, where the sentence has such, of three letters or more.

    Returns:
        of each sentence "text" with [MASK], "truth", "truth_probability", and "guesses", the
        likeliest first, each with "token" and "probability"; the same on every rank.
    """
    vocabulary = table.store.vocabulary
    chosen = sentences(table, number, _MIN_TOKENS)
    draws = keys(EVALUATION_SEED, MASKS, _WORDS, len(chosen))
    questions = []
    for sentence, draw in zip(chosen, draws, strict=True):
        words = _words_to_ask(sentence.tokens, vocabulary)
        asked = int(words[int(draw % np.uint64(len(words)))])
        questions.append(Question(sentence.tokens, asked, range(asked, asked + 1)))
    if not questions:
        return []
    best = partial(_best, vocabulary.size)
    found = answers(model, vocabulary, questions, device, batch_size, best, "fill-mask")
    return [
        _sample(question, row, vocabulary) for question, row in zip(questions, found, strict=True)
    ]


def _words_to_ask(tokens: NDArray[np.int64], vocabulary: Vocabulary) -> NDArray[np.int64]:
    is_continuation = np.append(vocabulary.is_continuation[tokens], False)
    is_word = ~is_continuation[:-1] & ~is_continuation[1:]
    names = [vocabulary.tokens[token] for token in tokens]
    is_long = np.array([name.isalpha() and len(name) >= _MIN_LETTERS for name in names])
    for candidates in (is_word & is_long, is_word):
        if candidates.any():
            return np.flatnonzero(candidates)
    return np.arange(len(tokens))


def _best(vocab_size: int, scores: Scores) -> Tensor:
    """[n, 1 + 2 x guesses]: the label's probability, the guesses' and their ids (exact in fp64).

    Models with more entries than the vocabulary has, as a filling, may guess none of those.
    """
    shares = scores.logits.double().softmax(-1)
    best = shares[:, :vocab_size].topk(min(NUM_GUESSES, vocab_size))
    own = shares.gather(1, scores.labels[:, None])
    return torch.cat([own, best.values, best.indices.double()], dim=1)


def _sample(question: Question, row: NDArray, vocabulary: Vocabulary) -> dict[str, Any]:
    names = [vocabulary.tokens[token] for token in question.tokens]
    truth, names[question.asked] = names[question.asked], "[MASK]"
    shares, ids = np.split(row[1:], 2)
    guesses = [
        {"token": vocabulary.tokens[int(token)], "probability": float(share)}
        for share, token in zip(shares, ids, strict=True)
    ]
    text = joined(names)
    return {"text": text, "truth": truth, "truth_probability": float(row[0]), "guesses": guesses}
