"""Instances in exact mode: the pairs, masks and order of Google's script, bit for bit.

One random generator serves everything: the shuffle of the documents, pairs and masks in turn, and
the shuffle of the instances. So this runs on one core, from the first document to the last.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
from ds_bert.dataset.format import INSTANCE_DTYPE, POSITION_DTYPE, Documents
from ds_bert.dataset.options import MLM_NSP, NUM_SPECIAL_TOKENS, InstanceOptions
from ds_bert.instances.google_masks import google_masks
from ds_bert.instances.masking import MaskingRules, masking_rules
from ds_bert.instances.sentence_pairs import draw_target, first_sentence, lay_out, next_pair
from ds_bert.rng import mersenne_twister
from ds_bert.rng.mersenne_twister import shuffle
from ds_bert.tokenizer.vocabulary import Vocabulary

_CHUNK_ROWS = 1 << 16
_SPECIAL_TOKENS = NUM_SPECIAL_TOKENS[MLM_NSP]


class InstanceChunk(NamedTuple):
    """Some instances in the order in which they are made.

    Attributes:
        rows: INSTANCE_DTYPE [N].
        mask_counts: uint16 [N], masked tokens of each instance.
        positions: uint16 [M], ascending positions in [CLS] A [SEP] B [SEP].
        replacements: token dtype [M], the id that the model sees there.
    """

    rows: NDArray
    mask_counts: NDArray[np.uint16]
    positions: NDArray[np.uint16]
    replacements: NDArray


class GoogleInstances:
    """Makes the instances of one sequence length; use `chunks` to the end, then `final_order`.

    Attributes:
        state: state of the random generator, see `ds_bert.rng.mersenne_twister`.

    Source: google-research/bert, create_pretraining_data.py (`create_training_instances`).
    """

    def __init__(
        self, documents: Documents, options: InstanceOptions, vocabulary: Vocabulary
    ) -> None:
        """Seed the generator and shuffle the documents."""
        self._documents, self._options = documents, options
        self._rules = _rules(options, vocabulary)
        self._special_ids = (vocabulary.cls_id, vocabulary.sep_id)
        self._token_dtype = vocabulary.token_dtype
        self.state = mersenne_twister.seeded(options.random_seed)
        self._order = np.arange(len(documents.token_offsets) - 1, dtype=np.int64)
        self._copy = self._place = 0
        shuffle(self.state, self._order)

    def chunks(self) -> Iterator[InstanceChunk]:
        """The instances from here on, in the order in which they are made, some at a time."""
        while self._copy < self._options.dupe_factor:
            self._place, chunk = self._next_chunk(self._place)
            if self._place == len(self._order):
                self._copy, self._place = self._copy + 1, 0
            yield chunk

    def position(self) -> dict[str, Any]:
        """How far `chunks` is, with the state of the random generator; JSON values."""
        return {"copy": self._copy, "place": self._place, "random_state": self.state.tolist()}

    def go_to(self, copy: int, place: int, random_state: list[int]) -> None:
        """Go on from a `position` of an earlier run."""
        self._copy, self._place = copy, place
        self.state = np.array(random_state, self.state.dtype)

    @property
    def fraction(self) -> float:
        """How much of the instances is made, 0 to 1."""
        return (self._copy + self._place / len(self._order)) / self._options.dupe_factor

    def final_order(self, num_instances: int) -> NDArray[np.int64]:
        """For each place of the output the number of the instance, by order of making."""
        order = np.arange(num_instances, dtype=np.int64)
        shuffle(self.state, order)
        return order

    def _next_chunk(self, place: int) -> tuple[int, InstanceChunk]:
        document = self._order[place]
        offsets = self._documents.sentence_offsets
        capacity = max(_CHUNK_ROWS, int(offsets[document + 1] - offsets[document]))
        max_masks = capacity * self._options.max_masks
        chunk = InstanceChunk(
            np.zeros(capacity, INSTANCE_DTYPE),
            np.empty(capacity, np.uint16),
            np.empty(max_masks, POSITION_DTYPE),
            np.empty(max_masks, self._token_dtype),
        )
        place, num_rows, num_masks = _build(
            self.state,
            self._documents,
            self._order,
            place,
            self._options.max_num_tokens,
            float(self._options.short_seq_prob),
            self._rules,
            self._special_ids,
            chunk,
        )
        return place, InstanceChunk(
            chunk.rows[:num_rows],
            chunk.mask_counts[:num_rows],
            chunk.positions[:num_masks],
            chunk.replacements[:num_masks],
        )


def _rules(options: InstanceOptions, vocabulary: Vocabulary) -> MaskingRules:
    """Any numbers of masks, as those of the same effect that compiled code can count with."""
    masks = replace(
        options.masks,
        masked_lm_prob=min(max(options.masked_lm_prob, 0.0), 1.0),
        max_predictions_per_seq=options.max_masks,
    )
    return masking_rules(masks, vocabulary, words_cross_segments=True)


@compiled
def _build(
    state, documents, order, place, max_num_tokens, short_seq_prob, rules, special_ids, chunk
):
    """Fill a chunk with whole documents, from the one at `place` on, while they surely fit."""
    scratch = np.empty((2, max_num_tokens + _SPECIAL_TOKENS), np.int64)
    sequence = np.empty(scratch.shape[1], np.int64)
    is_masked = np.empty(scratch.shape[1], np.uint8)
    num_rows = num_masks = 0
    while place < len(order):
        document = order[place]
        sentence = first_sentence(documents, document)
        end = first_sentence(documents, document + 1)
        if num_rows + end - sentence > len(chunk.rows):
            break
        target = draw_target(state, max_num_tokens, short_seq_prob)
        while sentence < end:
            row = chunk.rows[num_rows]
            sentence = next_pair(
                state,
                documents,
                order,
                place,
                sentence,
                target,
                max_num_tokens,
                row,
            )
            length, separator = lay_out(documents.tokens, row, special_ids, sequence)
            count = google_masks(
                state,
                sequence[:length],
                separator,
                rules,
                scratch,
                is_masked,
                chunk.positions[num_masks:],
                chunk.replacements[num_masks:],
            )
            chunk.mask_counts[num_rows] = count
            num_masks += count
            num_rows += 1
        place += 1
    return place, num_rows, num_masks
