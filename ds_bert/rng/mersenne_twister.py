"""CPython's `random.Random` in compiled form, bit for bit.

The state is a uint32 array [625]: the 624 words of MT19937 and the number of words already used.

Source: Matsumoto, Nishimura 1998 (MT19937); CPython 3.2 and later,
Modules/_randommodule.c and Lib/random.py (which draws make up which call).
"""

from random import Random

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled

_SIZE, _MIDDLE = 624, 397


def seeded(seed: int) -> NDArray[np.uint32]:
    """State of `random.Random(seed)` for an integer of any size and sign."""
    return np.array(Random(seed).getstate()[1], np.uint32)


@compiled
def _refill(state):
    for index in range(_SIZE - _MIDDLE):
        _twist(state, index, index + 1, index + _MIDDLE)
    for index in range(_SIZE - _MIDDLE, _SIZE - 1):
        _twist(state, index, index + 1, index + _MIDDLE - _SIZE)
    _twist(state, _SIZE - 1, 0, _MIDDLE - 1)
    state[_SIZE] = 0


@compiled
def _twist(state, index, following, middle):
    word = (state[index] & np.uint32(0x80000000)) | (state[following] & np.uint32(0x7FFFFFFF))
    odd = np.uint32(0x9908B0DF) * (word & np.uint32(1))
    state[index] = np.uint32(state[middle] ^ (word >> np.uint32(1)) ^ odd)


@compiled
def _next_word(state):
    if state[_SIZE] >= _SIZE:
        _refill(state)
    word = np.uint64(state[state[_SIZE]])
    state[_SIZE] += np.uint32(1)
    word ^= word >> np.uint64(11)
    word ^= (word << np.uint64(7)) & np.uint64(0x9D2C5680)
    word ^= (word << np.uint64(15)) & np.uint64(0xEFC60000)
    return word ^ (word >> np.uint64(18))


@compiled
def random(state):
    """`Random.random()`: float64 in [0, 1)."""
    high = np.int64(_next_word(state) >> np.uint64(5))
    low = np.int64(_next_word(state) >> np.uint64(6))
    return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0)


@compiled
def getrandbits(state, num_bits):
    """`Random.getrandbits(num_bits)` for 1 <= num_bits <= 64: uint64."""
    if num_bits <= 32:
        return _next_word(state) >> np.uint64(32 - num_bits)
    low = _next_word(state)
    return low | (_next_word(state) >> np.uint64(64 - num_bits)) << np.uint64(32)


@compiled
def randbelow(state, bound):
    """`Random.randrange(bound)` for 1 <= bound < 2**63: int64."""
    num_bits = 0
    while bound >> num_bits:
        num_bits += 1
    return _draw_below(state, bound, num_bits)


@compiled
def _draw_below(state, bound, num_bits):
    """Draws of `num_bits`, the bits of `bound`, until one is below it."""
    value = np.int64(getrandbits(state, num_bits))
    while value >= bound:
        value = np.int64(getrandbits(state, num_bits))
    return value


@compiled
def shuffle(state, items):
    """`Random.shuffle(items)` of a one-dimensional array, in place."""
    num_bits = 0
    while len(items) >> num_bits:
        num_bits += 1
    for last in range(len(items) - 1, 0, -1):
        if (last + 1) >> (num_bits - 1) == 0:
            num_bits -= 1
        other = _draw_below(state, last + 1, num_bits)
        items[last], items[other] = items[other], items[last]
