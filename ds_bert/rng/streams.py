"""Counter-based random streams: a draw depends on its key and its number, never on earlier work.

Any worker can make any part of the data in any order and gets the same numbers.
"""

import numpy as np
import xxhash
from numpy.typing import NDArray

from ds_bert.compiled import compiled

# What a stream is for: streams of the same seed, epoch and index but another purpose are unrelated.
INSTANCES, MASKS, ORDER, SPLIT, BLOCKS, DROPOUT, BOOTSTRAP = 1, 2, 3, 4, 5, 6, 7

STEP = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_ROUNDS = 6  # of the permutation


@compiled
def mix(value):
    """Scramble 64 bits, one to one.

    Source: Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators" (splitmix64).
    """
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    return value ^ (value >> np.uint64(31))


@compiled
def stream_key(seed, purpose, epoch, index):
    """Key of one stream, uint64; all arguments are integers of up to 64 bits."""
    key = mix(np.uint64(seed) + STEP)
    key = mix((key ^ np.uint64(purpose)) + STEP)
    key = mix((key ^ np.uint64(epoch)) + STEP)
    return mix((key ^ np.uint64(index)) + STEP)


@compiled
def uniform(key, number):
    """Draw `number` (0, 1, ...) of the stream `key`: float64 in [0, 1), a multiple of 2**-53."""
    bits = mix(key + (np.uint64(number) + np.uint64(1)) * STEP)
    return np.int64(bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def below(key, number, bound):
    """Draw `number` of the stream `key`: integer in [0, bound), bound <= 2**53."""
    return np.int64(uniform(key, number) * bound)


@compiled
def start_stream(stream, seed, purpose, epoch, index):
    """Make `stream` (uint64 [2]: key and number of draws) the start of the stream of that key."""
    stream[0] = stream_key(seed, purpose, epoch, index)
    stream[1] = 0


@compiled
def next_uniform(stream):
    """Next draw of `stream`: float64 in [0, 1)."""
    stream[1] += np.uint64(1)
    return uniform(stream[0], stream[1] - np.uint64(1))


@compiled
def next_below(stream, bound):
    """Next draw of `stream`: integer in [0, bound)."""
    return np.int64(next_uniform(stream) * bound)


@compiled
def next_index(stream, bound):
    """As `next_below` without floats, for bounds far under 2**32: the bias is bound / 2**32."""
    stream[1] += np.uint64(1)
    high = mix(stream[0] + stream[1] * STEP) >> np.uint64(32)
    return np.int64((high * np.uint64(bound)) >> np.uint64(32))


def fold_seed(seed: int) -> np.uint64:
    """An integer seed of any size as 64 bits (the seed modulo 2**64)."""
    return np.uint64(seed % 2**64)


def named_seed(seed: int, name: str) -> int:
    """The seed of one of several parts: each name has one of its own; that of "" is the seed."""
    return seed ^ xxhash.xxh3_64_intdigest(name.encode()) if name else seed


def keys(seed: int, purpose: int, epoch: int, num_keys: int) -> NDArray[np.uint64]:
    """Keys of the streams with index 0, 1, ..., num_keys - 1; they serve as hashes as well."""
    return _keys(fold_seed(seed), purpose, epoch, num_keys)


@compiled
def _keys(seed, purpose, epoch, num_keys):
    result = np.empty(num_keys, np.uint64)
    for index in range(num_keys):
        result[index] = stream_key(seed, purpose, epoch, index)
    return result


def permuted(
    positions: NDArray[np.int64], num_items: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Items at the given positions of a random order of range(num_items), in O(1) memory.

    A Feistel network permutes the next power of four; a value outside the range is sent through
    the network again until it falls inside, which keeps the map one to one.

    Args:
        positions: int64 [N], each in [0, num_items).
        num_items: length of the order.
        seed: any integer.
        epoch: each epoch has an order of its own.

    Returns:
        int64 [N], each in [0, num_items).

    Source: Black, Rogaway 2002, "Ciphers with Arbitrary Finite Domains" (cycle walking).
    """
    half_bits = max(1, ((num_items - 1).bit_length() + 1) // 2)
    round_keys = np.array(
        [stream_key(fold_seed(seed), ORDER, epoch, index) for index in range(_ROUNDS)], np.uint64
    )
    return _permuted(positions, np.uint64(num_items), np.uint64(half_bits), round_keys)


@compiled
def _permuted(positions, num_items, half_bits, round_keys):
    result = np.empty(len(positions), np.int64)
    for index in range(len(positions)):
        result[index] = _walk(np.uint64(positions[index]), num_items, half_bits, round_keys)
    return result


@compiled
def _walk(value, num_items, half_bits, round_keys):
    """Send a value through the network until it falls below `num_items`."""
    low_half = (np.uint64(1) << half_bits) - np.uint64(1)
    while True:
        left, right = value >> half_bits, value & low_half
        for key in round_keys:
            left, right = right, left ^ (mix(right + key) & low_half)
        value = (left << half_bits) | right
        if value < num_items:
            return np.int64(value)


def permuted_in_blocks(
    positions: NDArray[np.int64], block_size: int, seed: int
) -> NDArray[np.int64]:
    """As `permuted`, where every block of positions is an epoch: fast for blocks of any size.

    Args:
        positions: int64 [N], 0 or more; those of block b are b x block_size and what follows.
        block_size: length of each order.
        seed: any integer.

    Returns:
        int64 [N], each in [0, block_size).
    """
    half_bits = max(1, ((block_size - 1).bit_length() + 1) // 2)
    return _permuted_in_blocks(
        positions, np.int64(block_size), np.uint64(half_bits), fold_seed(seed)
    )


@compiled
def _permuted_in_blocks(positions, block_size, half_bits, seed):
    result, round_keys = np.empty(len(positions), np.int64), np.empty(_ROUNDS, np.uint64)
    last = np.int64(-1)
    for index in range(len(positions)):
        block = positions[index] // block_size
        if block != last:
            last = block
            for number in range(_ROUNDS):
                round_keys[number] = stream_key(seed, BLOCKS, block, number)
        place = np.uint64(positions[index] - block * block_size)
        result[index] = _walk(place, np.uint64(block_size), half_bits, round_keys)
    return result
