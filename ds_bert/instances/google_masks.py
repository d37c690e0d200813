"""The choice of masked tokens as Google's script makes it, draw by draw.

Source: google-research/bert, create_pretraining_data.py (`create_masked_lm_predictions`).
"""

import numpy as np

from ds_bert.compiled import compiled
from ds_bert.instances.masking import num_predictions, num_tokens, split_words
from ds_bert.rng.mersenne_twister import randbelow, random, shuffle


@compiled
def google_masks(state, sequence, separator, rules, scratch, is_masked, positions, replacements):
    """Mask one sequence in place, with the draws of Google's script in its order.

    Args:
        state: state of the random generator, see `ds_bert.rng.mersenne_twister`.
        sequence: integers [L], [CLS] A [SEP] B [SEP]; masks are written into it.
        separator: position of the first [SEP].
        rules: from `ds_bert.instances.masking.masking_rules`.
        scratch: int64 [2, L or more], overwritten.
        is_masked: uint8 [L or more], overwritten.
        positions: written: ascending positions of the masked tokens.
        replacements: written: the ids that stand there now.

    Returns:
        Number of masked tokens.
    """
    words, ends = scratch
    num_words = split_words(sequence, separator, rules, words, ends)
    shuffle(state, words[:num_words])
    wanted = num_predictions(
        len(sequence),
        num_tokens(sequence, separator),
        rules.masked_lm_prob,
        rules.max_predictions_per_seq,
    )
    is_masked[: len(sequence)] = 0
    count = 0
    for word in words[:num_words]:
        if count >= wanted:
            break
        size = ends[word] - word - (word < separator < ends[word])
        if count + size > wanted:
            continue
        for position in range(word, ends[word]):
            if position != separator:
                sequence[position] = _replacement(state, sequence[position], rules)
                is_masked[position] = 1
        count += size
    count = 0
    for position in range(len(sequence)):
        if is_masked[position]:
            positions[count] = position
            replacements[count] = sequence[position]
            count += 1
    return count


@compiled
def _replacement(state, token, rules):
    if random(state) < 0.8:
        return rules.mask_id
    if random(state) < 0.5:
        return np.int64(token)
    return rules.replacement_ids[randbelow(state, len(rules.replacement_ids))]
