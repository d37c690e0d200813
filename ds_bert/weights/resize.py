"""Another vocabulary, another number of positions: which rows are kept, and what new ones are.

Rows of word embeddings are rows of the masked-LM head as well: BERT's output weights are tied.
"""

from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ds_bert.tokenizer.vocabulary import CONTINUATION, Vocabulary
from ds_bert.tokenizer.wordpiece import WordPieceTokenizer
from ds_bert.weights.source import EMBEDDINGS, OUTPUT_BIAS, POSITIONS, SourceModel

MAX_SHARE_OF_CAPITALS = 0.03  # of the tokens of a lower-cased vocabulary


class Exchange(NamedTuple):
    """How the rows of a new vocabulary came about, in tokens.

    Attributes:
        shared: have the row that they had.
        pieces: new, the mean of their pieces in the old vocabulary.
        unknown: new, without pieces there: the mean of all its rows.
        dropped: of the old vocabulary alone.
    """

    shared: int
    pieces: int
    unknown: int
    dropped: int


def is_lower_cased(vocabulary: Vocabulary) -> bool:
    """Whether a vocabulary looks like one of lower-cased text: (nearly) no token has a capital."""
    capitals = sum(token != token.lower() for token in vocabulary.tokens if token[:1] != "[")
    return capitals <= MAX_SHARE_OF_CAPITALS * vocabulary.size


def exchange_vocabulary(model: SourceModel, new: Vocabulary, do_lower_case: bool) -> Exchange:
    """Give a model another vocabulary.

    A token that both have keeps its row. The text of any other is cut into pieces by the old
    tokenizer and gets the mean of their rows; [UNK] is no piece. The same goes for the output bias.

    Args:
        model: with its vocabulary; changed in place.
        new: the vocabulary to have.
        do_lower_case: casing of the old tokenizer.

    Returns:
        counts of tokens.
    """
    old = model.vocabulary
    assert old is not None
    made = _pieces_of([token for token in new.ids if token not in old.ids], old, do_lower_case)
    sources = [[old.ids[t]] if t in old.ids else made[t] or [-1] for t in new.tokens]
    for name in (EMBEDDINGS, OUTPUT_BIAS):
        rows = model.weights[name]
        mean = _mean_rows(rows.reshape(len(rows), -1)[: old.size], sources)
        model.weights[name] = mean.reshape(-1, *rows.shape[1:])
    model.config.vocab_size = new.size
    model.vocabulary, model.do_lower_case = new, None
    num_pieces = sum(bool(pieces) for pieces in made.values())
    num_shared = len(new.ids) - len(made)
    return Exchange(num_shared, num_pieces, len(made) - num_pieces, len(old.ids) - num_shared)


def _pieces_of(tokens: list[str], old: Vocabulary, do_lower_case: bool) -> dict[str, list[int]]:
    """Ids of each token's pieces in the old vocabulary; none where it knows nothing of it.

    A token that goes on with a word ("##er") begins with a piece that does, if there is one.
    """
    tokenizer = WordPieceTokenizer(old, do_lower_case)
    pieces = {}
    for token in tokens:
        is_inside = token.startswith(CONTINUATION)
        text = token.removeprefix(CONTINUATION)
        ids = [int(i) for i in tokenizer.encode(text.encode()).tokens if i != old.unk_id]
        if ids and is_inside:
            ids[0] = old.ids.get(CONTINUATION + old.tokens[ids[0]], ids[0])
        pieces[token] = ids
    return pieces


def _mean_rows(rows: Tensor, sources: list[list[int]]) -> Tensor:
    """For each list of row numbers the mean of those rows; -1 stands for the mean of all.

    A single row stays bit for bit.
    """
    rows = torch.cat([rows, rows.mean(0, keepdim=True)])
    lengths = torch.tensor([len(numbers) for numbers in sources])
    offsets = lengths.cumsum(0) - lengths
    numbers = torch.tensor(list(chain.from_iterable(sources))) % len(rows)
    return F.embedding_bag(numbers, rows, offsets, mode="mean")


def resize_positions(model: SourceModel, number: int) -> None:
    """Give a model another number of positions.

    The old ones stay, so all that fits into them is computed as before. New ones repeat the old in
    blocks: neighbours look to each other as they did, at any place but the seam between two blocks.
    (Stretching the old ones over the new range would change every sequence.)

    Args:
        model: changed in place.
        number: of positions; fewer cut the last off.

    Source: Beltagy et al. 2020, Longformer, section 5.
    """
    rows = model.weights[POSITIONS]
    model.weights[POSITIONS] = rows[torch.arange(number) % len(rows)].clone()
    model.config.max_position_embeddings = number
