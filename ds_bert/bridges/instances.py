"""Records of other programs, looked at number by number, as sequences of ours."""

from typing import NamedTuple

import numpy as np

from ds_bert.bridges.columns import Columns
from ds_bert.compiled import compiled
from ds_bert.dataset.options import InstanceOptions
from ds_bert.dataset.sequences import SequenceChunk
from ds_bert.dataset.tables import MaskChunk
from ds_bert.tokenizer.vocabulary import Vocabulary

# What is wrong with a record.
_WRONG = (
    "",
    "a mask of ones for the tokens and zeros for the padding behind them",
    "a segment id for every token",
    "at most {max_seq_length} tokens",
    "[CLS] as first token and [SEP] as last one, by the vocabulary that was given",
    "token ids from 0 to below {vocabulary_size:,}, the size of the vocabulary",
    "segment ids of 0 up to the first [SEP], with text before it, and 1 behind it",
    "{segments}, as the first records have",
    "as many labels as masked positions",
    "at most {max_predictions_per_seq} masked tokens",
    "ascending masked positions on tokens of the text",
    "a next-sentence label of 0 or 1",
)
(
    _SOUND,
    _PADDING_INSIDE,
    _FEW_SEGMENTS,
    _LONG,
    _FRAME,
    _TOKENS,
    _SEGMENTS,
    _OBJECTIVE,
    _LABELS,
    _MANY_MASKS,
    _POSITIONS,
    _NEXT,
) = range(len(_WRONG))


class _Rules(NamedTuple):
    """What records must fit."""

    cls_id: int
    sep_id: int
    vocabulary_size: int
    max_seq_length: int
    max_predictions_per_seq: int
    has_pairs: bool


def as_sequences(
    columns: Columns, problems: dict[int, str], options: InstanceOptions, vocabulary: Vocabulary
) -> tuple[SequenceChunk, dict[int, str]]:
    """The sound records as sequences of ours, with masks, and what is wrong with the others.

    Args:
        columns: N records.
        problems: by its row, what is known to be wrong with a record.
        options: what they must fit.
        vocabulary: of the ids.

    Returns:
        the sequences, and all problems by row.
    """
    rules = _Rules(
        vocabulary.cls_id,
        vocabulary.sep_id,
        vocabulary.size,
        options.max_seq_length,
        options.max_masks,
        options.has_pairs,
    )
    num_rows = len(columns.lengths)
    verdicts = np.zeros(num_rows, np.int64)
    verdicts[list(problems)] = -1
    tokens = np.empty(np.maximum(columns.lengths, 0).sum(), np.int64)
    a_lengths, b_lengths, counts = np.empty((3, num_rows), np.int64)
    positions, replacements = np.empty((2, np.maximum(columns.num_masks, 0).sum()), np.int64)
    num_tokens, num_masks = _take(
        columns, rules, verdicts, tokens, a_lengths, b_lengths, counts, positions, replacements
    )
    sound = verdicts == _SOUND
    masks = MaskChunk(counts[sound], positions[:num_masks], replacements[:num_masks])
    chunk = SequenceChunk(
        tokens[:num_tokens],
        a_lengths[sound],
        b_lengths[sound],
        columns.is_random_next[sound],
        masks,
    )
    found = {int(row): _expected(verdicts[row], rules) for row in np.flatnonzero(verdicts > _SOUND)}
    return chunk, problems | found


def _expected(verdict: int, rules: _Rules) -> str:
    segments = "two segments" if rules.has_pairs else "one segment"
    return "expected " + _WRONG[verdict].format(segments=segments, **rules._asdict())


@compiled
def _take(columns, rules, verdicts, tokens, a_lengths, b_lengths, counts, positions, replacements):
    """Judge the records that are not judged yet; append tokens and masks of the sound ones."""
    num_tokens = num_masks = 0
    for row in range(len(verdicts)):
        if verdicts[row] != _SOUND:
            continue
        verdict, border = _judge_sequence(columns, row, rules)
        if verdict == _SOUND:
            verdict = _judge_masks(columns, row, border, rules)
        verdicts[row] = verdict
        if verdict != _SOUND:
            continue
        length, ids, start = columns.lengths[row], columns.input_ids.values, num_tokens
        first = columns.input_ids.starts[row]
        for place in range(1, length - 1):
            if place != border - 1:  # the first [SEP]
                tokens[num_tokens] = ids[first + place]
                num_tokens += 1
        for number in range(columns.num_masks[row]):
            position = columns.positions.values[columns.positions.starts[row] + number]
            positions[num_masks] = position
            replacements[num_masks] = ids[first + position]
            # In front of a token of A there is [CLS], of B a [SEP] as well.
            place = start + position - (1 if position < border else 2)
            tokens[place] = columns.labels.values[columns.labels.starts[row] + number]
            num_masks += 1
        counts[row] = columns.num_masks[row]
        a_lengths[row] = border - 2
        b_lengths[row] = max(0, length - border - 1)
    return num_tokens, num_masks


@compiled
def _judge_sequence(columns, row, rules):
    """What is wrong with the tokens and segments, and the number of tokens in [CLS] A [SEP]."""
    length = columns.lengths[row]
    ids, first = columns.input_ids.values, columns.input_ids.starts[row]
    segments, first_segment = columns.segment_ids.values, columns.segment_ids.starts[row]
    if length < 0 or length > columns.input_ids.counts[row]:
        return _PADDING_INSIDE, 0
    if length > columns.segment_ids.counts[row]:
        return _FEW_SEGMENTS, 0
    if length > rules.max_seq_length:
        return _LONG, 0
    if length < 3 or ids[first] != rules.cls_id or ids[first + length - 1] != rules.sep_id:
        return _FRAME, 0
    border = 0
    for place in range(length):
        if not 0 <= ids[first + place] < rules.vocabulary_size:
            return _TOKENS, 0
        segment = segments[first_segment + place]
        border += segment == 0
        if segment != (1 if place >= border else 0):
            return _SEGMENTS, 0
    has_pair = border < length
    if border < 3 or ids[first + border - 1] != rules.sep_id or length - border == 1:
        return _SEGMENTS, 0
    if has_pair != rules.has_pairs:
        return _OBJECTIVE, 0
    if not 0 <= columns.is_random_next[row] <= 1:
        return _NEXT, 0
    return _SOUND, border


@compiled
def _judge_masks(columns, row, border, rules):
    """What is wrong with the masks of a sequence with `border` tokens in [CLS] A [SEP]."""
    count, last = columns.num_masks[row], 0
    if count < 0:
        return _PADDING_INSIDE
    if count > min(columns.positions.counts[row], columns.labels.counts[row]):
        return _LABELS
    if count > rules.max_predictions_per_seq:
        return _MANY_MASKS
    for number in range(count):
        position = columns.positions.values[columns.positions.starts[row] + number]
        label = columns.labels.values[columns.labels.starts[row] + number]
        if not last < position < columns.lengths[row] - 1 or position == border - 1:
            return _POSITIONS
        if not 0 <= label < rules.vocabulary_size:
            return _TOKENS
        last = position
    return _SOUND
