"""Counter-based streams: known values, independence, and the permutation."""

import numpy as np
import pytest

from ds_bert.rng import streams


def test_mix_is_that_of_splitmix64():
    # First outputs of the published generator for seed 1234567.
    step, expected = 0x9E3779B97F4A7C15, [6457827717110365317, 3203168211198807973]
    found = [int(streams.mix(np.uint64((1234567 + number * step) % 2**64))) for number in (1, 2)]
    assert found == expected


def test_values_stay_the_same():
    """A change here would change every data set and every run."""
    key = streams.stream_key(np.uint64(12345), streams.MASKS, 3, 77)
    assert int(key) == 8969403556186720661
    assert [int(streams.below(key, number, 1000)) for number in range(5)] == [
        389,
        227,
        488,
        293,
        126,
    ]
    positions = np.arange(10)
    assert streams.permuted(positions, 10, 42, 0).tolist() == [5, 4, 8, 7, 3, 1, 9, 2, 0, 6]


def test_every_part_of_the_key_counts():
    keys = {
        int(streams.stream_key(np.uint64(seed), purpose, epoch, index))
        for seed in (0, 1, 2**63)
        for purpose in (1, 2, 3, 4)
        for epoch in range(5)
        for index in range(50)
    }
    assert len(keys) == 3 * 4 * 5 * 50


def test_stream_is_the_numbered_draws():
    stream = np.empty(2, np.uint64)
    streams.start_stream(stream, np.uint64(5), streams.INSTANCES, 1, 2)
    key = stream[0]
    for number in range(20):
        assert streams.next_uniform(stream) == streams.uniform(key, number)


def test_draws_are_uniform_and_unrelated():
    keys = streams.keys(1, streams.ORDER, 0, 2000)
    draws = np.array([[streams.uniform(key, number) for number in range(50)] for key in keys])
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.bincount((draws * 100).astype(int).ravel(), minlength=100)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 99 + 5 * np.sqrt(2 * 99)
    correlations = np.corrcoef(draws.T) - np.eye(50)
    assert np.abs(correlations).max() < 5.5 / np.sqrt(2000)


@pytest.mark.parametrize("num_items", [1, 2, 3, 16, 17, 1000, 65537])
def test_permutation_is_one_to_one(num_items):
    items = streams.permuted(np.arange(num_items), num_items, 7, 3)
    assert np.array_equal(np.sort(items), np.arange(num_items))


def test_permutation_depends_on_seed_and_epoch_only():
    positions = np.arange(1000)
    order = streams.permuted(positions, 1000, 7, 3)
    assert not np.array_equal(order, streams.permuted(positions, 1000, 8, 3))
    assert not np.array_equal(order, streams.permuted(positions, 1000, 7, 4))
    assert np.array_equal(order[::3], streams.permuted(positions[::3], 1000, 7, 3))


def test_places_of_the_permutation_are_uniform():
    places = np.array([streams.permuted(np.arange(20), 20, seed, 0) for seed in range(4000)])
    counts = np.array([np.bincount(column, minlength=20) for column in places.T])
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert chi_square < 19 * 19 + 5 * np.sqrt(2 * 19 * 19)


def test_seeds_of_any_size():
    assert streams.fold_seed(-1) == np.uint64(2**64 - 1)
    assert streams.keys(2**70 + 5, 1, 0, 3).tolist() == streams.keys(5, 1, 0, 3).tolist()
