"""Examples as a model reads them: pieces, and the places where it is asked for a class."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ds_bert.scoring.examples import Example

UNSEEN = -1


class Encoded(NamedTuple):
    """Examples for one model; an item is what has a class: a text, or a word.

    Attributes:
        inputs: what the model is called with, of each example; lists of numbers, not padded.
        places: int64 [items of the example], of each: the token that stands for the item, the first
            piece of a word; UNSEEN where it was cut off, or has no piece. Of texts: 0, [CLS].
        targets: int64 [items of the example], of each: numbers of classes.
    """

    inputs: list[dict[str, list[int]]]
    places: list[NDArray[np.int64]]
    targets: list[NDArray[np.int64]]


class Batch(NamedTuple):
    """Examples side by side.

    Attributes:
        inputs: int64 [B, L] of each name, padded.
        rows: int64 [n], which example each item is of.
        places: int64 [n].
        targets: int64 [n].
    """

    inputs: dict[str, torch.Tensor]
    rows: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor


def encode(
    examples: Sequence[Example], tokenizer: Any, classes: Sequence[str], max_seq_length: int
) -> Encoded:
    """Tokenize examples with a tokenizer of transformers; what is too long is cut off."""
    numbers = {label: number for number, label in enumerate(classes)}
    is_tagging = isinstance(examples[0].text, list)
    inputs, places = [], []
    for example in examples:
        found = tokenizer(
            example.text,
            example.pair,
            is_split_into_words=is_tagging,
            truncation=True,
            max_length=max_seq_length,
        )
        inputs.append({name: list(values) for name, values in found.items()})
        first = _first_pieces(found.word_ids(), len(example.labels)) if is_tagging else [0]
        places.append(np.array(first, np.int64))
    targets = [np.array([numbers[label] for label in one.labels], np.int64) for one in examples]
    return Encoded(inputs, places, targets)


def _first_pieces(word_ids: list[int | None], num_words: int) -> list[int]:
    first = [UNSEEN] * num_words
    for place, word in enumerate(word_ids):
        if word is not None and first[word] == UNSEEN:
            first[word] = place
    return first


def make_batch(
    encoded: Encoded, chosen: Sequence[int], tokenizer: Any, device: torch.device
) -> Batch:
    """Some examples, padded to the longest of them; items that are UNSEEN are left out."""
    inputs = tokenizer.pad([encoded.inputs[number] for number in chosen], return_tensors="pt")
    counts = [len(encoded.places[number]) for number in chosen]
    places = np.concatenate([encoded.places[number] for number in chosen])
    targets = np.concatenate([encoded.targets[number] for number in chosen])
    rows, seen = np.repeat(np.arange(len(chosen)), counts), places != UNSEEN
    return Batch(
        {name: tensor.to(device) for name, tensor in inputs.items()},
        *(torch.from_numpy(array[seen]).to(device) for array in (rows, places, targets)),
    )
