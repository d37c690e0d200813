"""A pair of segments as the sequence that the model sees, in compiled code."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def lay_out(tokens, row, special_ids, sequence):
    """Write one pair as [CLS] A [SEP] B [SEP]; returns its length and the first [SEP]'s position.

    Args:
        tokens: token ids of the corpus.
        row: one item of `ds_bert.store.INSTANCE_DTYPE`.
        special_ids: ids of [CLS] and [SEP].
        sequence: integers [length of the sequence or more], written.
    """
    separator = 1 + np.int64(row.a_length)
    last = separator + 1 + np.int64(row.b_length)
    sequence[0] = special_ids[0]
    _copy(tokens, np.int64(row.a_start), sequence[1:separator])
    sequence[separator] = special_ids[1]
    _copy(tokens, np.int64(row.b_start), sequence[separator + 1 : last])
    sequence[last] = special_ids[1]
    return last + 1, separator


@njit(cache=True, nogil=True)
def _copy(tokens, start, target):
    source = tokens[start : start + len(target)]  # from 0 on, so that the loop is vectorized
    for index in range(len(target)):
        target[index] = source[index]
