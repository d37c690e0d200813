"""Looking at instances: what the model is shown and what it is asked."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from ds_bert.dataset.options import MLM_NSP, MLM_SOP
from ds_bert.dataset.store import InstanceTable
from ds_bert.instances.collate import BatchArrays, collate
from ds_bert.tokenizer.vocabulary import CONTINUATION, MASK

_ROWS_AT_ONCE = 1024
# Of the segments, by objective and label.
RELATIONS = {
    MLM_NSP: ("B follows A", "B is from another place"),
    MLM_SOP: ("B follows A", "A follows B"),
}


@dataclass(frozen=True)
class Example:
    """One instance in words, named as in Google's script.

    Attributes:
        tokens: [CLS] A [SEP] B [SEP] as the model sees it, masks in place; perhaps without B [SEP].
        segment_ids: 0 in [CLS] A [SEP], 1 in B [SEP].
        masked_lm_positions: ascending positions in `tokens`.
        masked_lm_labels: the tokens of the text there.
        is_random_next: whether B was drawn at random or, for sentence order, stood before A.
    """

    tokens: list[str]
    segment_ids: list[int]
    masked_lm_positions: list[int]
    masked_lm_labels: list[str]
    is_random_next: bool


def examples(table: InstanceTable, limit: int | None = None) -> Iterator[Example]:
    """The first instances of a table in stored order.

    Stored masks are shown; where masks are made for each batch, those of epoch 0 with the
    preprocessing's seed are.
    """
    num_rows = min(len(table), limit if limit is not None else len(table))
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        indices = np.arange(start, min(start + _ROWS_AT_ONCE, num_rows))
        arrays = collate(table, indices, np.zeros_like(indices), table.options.random_seed)
        yield from split(arrays, table.store.vocabulary.tokens)


def split(arrays: BatchArrays, names: tuple[str, ...]) -> Iterator[Example]:
    """The instances of a batch.

    Args:
        arrays: the batch.
        names: token of each id.
    """
    mask_bounds = np.searchsorted(arrays.masked_lm_positions, arrays.cu_seqlens)
    for number, is_random_next in enumerate(arrays.next_sentence_labels):
        first, last = arrays.cu_seqlens[number : number + 2]
        masked = slice(*mask_bounds[number : number + 2])
        yield Example(
            [names[token] for token in arrays.input_ids[first:last]],
            arrays.token_type_ids[first:last].tolist(),
            (arrays.masked_lm_positions[masked] - first).tolist(),
            [names[token] for token in arrays.masked_lm_labels[masked]],
            bool(is_random_next),
        )


def as_json(example: Example, ensure_ascii: bool = False) -> str:
    """One line of JSON."""
    return json.dumps(asdict(example), ensure_ascii=ensure_ascii)


def as_text(example: Example, objective: str) -> str:
    """The segments with the pieces of words joined, and how they are related under an objective.

    [word->MASK] was hidden, [word->other] replaced, and [word] is asked for though it is visible.
    """
    shown = list(example.tokens)
    for position, label in zip(example.masked_lm_positions, example.masked_lm_labels, strict=True):
        shown[position] = _marked(label, example.tokens[position])
    numbers = f"{len(shown)} tokens, {len(example.masked_lm_labels)} masked"
    if 1 not in example.segment_ids:
        return f"{numbers}\n  A: {joined(shown[1:-1])}"
    border = example.segment_ids.index(1)
    return (
        f"{numbers}, {RELATIONS[objective][example.is_random_next]}\n"
        f"  A: {joined(shown[1 : border - 1])}\n"
        f"  B: {joined(shown[border:-1])}"
    )


def _marked(label: str, seen: str) -> str:
    start = CONTINUATION if label.startswith(CONTINUATION) else ""  # stays joined to its word
    if seen == label:
        return f"{start}[{label}]"
    return f"{start}[{label}->{'MASK' if seen == MASK else seen}]"


def joined(pieces: Iterable[str]) -> str:
    """Tokens as text: pieces of words together."""
    return " ".join(pieces).replace(f" {CONTINUATION}", "")
