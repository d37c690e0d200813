"""Sequences shared out by length, and the one shape that micro-batches are padded to."""

import numpy as np
import pytest

from ds_bert.batching.packing import choose_shape, deal, deal_into

LONGEST = 128


def draw(number, seed=1):
    """Lengths as of real text: most sequences are full, some are short."""
    random = np.random.default_rng(seed)
    lengths = random.integers(8, LONGEST + 1, number)
    lengths[random.random(number) < 0.78] = LONGEST
    return lengths


def shape_of(lengths, micro_batch_size, num_batches, world_size=1):
    return choose_shape(lengths, micro_batch_size, num_batches, world_size, LONGEST, 0.15, 20)


@pytest.mark.parametrize(("number", "num_batches"), [(512, 8), (24, 8), (29, 8), (8, 8), (7, 1)])
def test_all_are_dealt_out_evenly(number, num_batches):
    lengths = draw(number)
    dealt = deal(lengths, num_batches)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(number))
    counts = [len(each) for each in dealt]
    assert len(dealt) == num_batches and max(counts) - min(counts) <= (number % num_batches > 0)
    sums = [int(lengths[each].sum()) for each in dealt]
    if number == 512:
        assert np.ptp(sums) < 0.001 * max(sums)
    again = deal(lengths, num_batches)
    assert all(map(np.array_equal, dealt, again))


@pytest.mark.parametrize("world_size", [1, 2, 8])
@pytest.mark.parametrize("micro_batch_size", [1, 3, 16, 64])
@pytest.mark.parametrize("is_full", [False, True])
def test_every_step_fits(micro_batch_size, world_size, is_full):
    size = micro_batch_size * world_size * 2
    lengths = np.full(4000, LONGEST) if is_full else draw(4000)
    shape = shape_of(lengths, micro_batch_size, size // micro_batch_size, world_size)
    unusual = [np.full(size, length) for length in (LONGEST, 5)]
    for step in [*lengths[: 4000 // size * size].reshape(-1, size)[:50], *unusual]:
        dealt = deal_into(shape, step, world_size)
        assert sorted(np.concatenate(dealt).tolist()) == list(range(size))
        assert len(dealt) % world_size == 0
        assert all(shape.fits(step[each]) for each in dealt)


def test_a_step_that_is_too_long_takes_one_more_on_each_rank():
    lengths = draw(4096)
    shape = shape_of(lengths, 16, 32, world_size=4)
    assert len(deal_into(shape, lengths[:512], 4)) == 32
    assert len(deal_into(shape, np.full(512, LONGEST), 4)) == 40


@pytest.mark.parametrize(("micro_batch_size", "least"), [(512, 0.99), (128, 0.99), (32, 0.985)])
def test_they_are_full(micro_batch_size, least):
    """Of steps of 4,096 sequences on one rank, those that take one micro-batch more included."""
    num_batches = 4096 // micro_batch_size
    shape = shape_of(draw(2**15), micro_batch_size, num_batches)
    tokens = places = 0
    for seed in range(20, 40):
        step = draw(4096, seed)
        tokens += step.sum()
        places += len(deal_into(shape, step, 1)) * shape.num_tokens
    assert tokens / places >= least


def test_room_for_masked_tokens():
    """As many as the longest sequences have; a short one has one at least."""
    shape = shape_of(draw(4096), 16, 32)
    assert 0.15 * shape.num_tokens < shape.num_masked <= 0.15 * shape.num_tokens + 16
    few = choose_shape(draw(4096), 16, 32, 1, LONGEST, 0.15, 2)
    assert few.num_masked == 32
