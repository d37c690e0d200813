"""The compiled generator against Python's own."""

import random

import numpy as np
import pytest

from ds_bert.rng import mersenne_twister

SEEDS = [0, 1, 12345, -12345, 2**32 - 1, 2**32, 2**40, 2**200 + 17]


@pytest.mark.parametrize("seed", SEEDS)
def test_draws_are_those_of_python(seed):
    state, python = mersenne_twister.seeded(seed), random.Random(seed)
    for number in range(1, 400):  # goes over the border of 624 words
        assert mersenne_twister.random(state) == python.random()
        assert mersenne_twister.randbelow(state, number) == python.randrange(number)
        num_bits = 1 + number % 64
        assert mersenne_twister.getrandbits(state, num_bits) == python.getrandbits(num_bits)


@pytest.mark.parametrize("bound", [2**31, 2**32 - 1, 2**32 + 1, 2**62 + 1])
def test_large_bounds(bound):
    state, python = mersenne_twister.seeded(3), random.Random(3)
    for _ in range(50):
        assert mersenne_twister.randbelow(state, bound) == python.randrange(bound)


@pytest.mark.parametrize("length", [0, 1, 2, 1000])
def test_shuffle(length):
    state, python = mersenne_twister.seeded(9), random.Random(9)
    items, expected = np.arange(length), list(range(length))
    mersenne_twister.shuffle(state, items)
    python.shuffle(expected)
    assert items.tolist() == expected
    assert mersenne_twister.random(state) == python.random()
