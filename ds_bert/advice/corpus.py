"""How much text there is, in tokens."""

from collections.abc import Sequence
from typing import NamedTuple

from ds_bert.dataset.store import TokenStore
from ds_bert.errors import DataError
from ds_bert.text.blocks import read_sample
from ds_bert.text.inputs import find_inputs
from ds_bert.tokenizer.basic_tokenizer import BasicTokenizer

_SAMPLE_BYTES = 2**20
PIECES = 1.1  # of a word; 1.06 in English novels with BERT's vocabulary, more with smaller ones


class Corpus(NamedTuple):
    """Text, or a data set made of it.

    Attributes:
        name: what the user has called it.
        tokens: about how many, without repetition.
        vocab_size: of the data set; None: not made yet.
        lengths: sequence lengths of the data set; none: not made yet.
        text: what a data set is made of.
    """

    name: str
    tokens: float
    vocab_size: int | None = None
    lengths: tuple[int, ...] = ()
    text: str = "YOUR_TEXT"


def of_text(patterns: Sequence[str]) -> Corpus:
    """Estimated from the first megabyte's words.

    Raises:
        DataError: there is no text, or nobody can say how much.
    """
    inputs, name = find_inputs(patterns), " ".join(patterns)
    num_bytes = sum(source.num_bytes for source in inputs)
    sample = read_sample(inputs, _SAMPLE_BYTES)
    if not num_bytes or not sample:
        raise DataError(
            f"--input_file {name}: found {num_bytes} bytes, expected text whose size is known "
            "beforehand; make a data set of it and give --train_data"
        )
    words = len(BasicTokenizer(True).split(sample).text.tobytes().split())
    return Corpus(name, PIECES * words * num_bytes / len(sample), text=name)


def of_data(folder: str) -> Corpus:
    """Counted.

    Raises:
        DataError: there is no such data set.
    """
    store = TokenStore.open(folder)
    lengths = tuple(store.sequence_lengths)
    return Corpus(folder, len(store.tokens), store.vocabulary.size, lengths)
