"""Work on threads: in order, and not far ahead."""

import threading

import pytest

from ds_bert.preprocessing.parallel import ordered_map


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_items_are_taken_only_a_little_ahead(num_workers):
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    results = []
    for result in ordered_map(lambda number: number * 2, items(), num_workers):
        results.append(result)
        assert len(taken) <= len(results) + num_workers
    assert results == list(range(0, 100, 2))


def test_all_workers_work_at_once():
    barrier = threading.Barrier(3, timeout=30)
    assert list(ordered_map(lambda number: barrier.wait() >= 0, range(6), 3)) == [True] * 6
