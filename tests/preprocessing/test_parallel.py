"""Work on threads: in order, not far ahead, and told of."""

import sys
import threading

import pytest

from ds_bert.preprocessing import parallel
from ds_bert.preprocessing.parallel import Progress, ordered_map


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


def test_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("tokens", 0.5) as progress:
        progress.update(0.75, B=5_000_000, tokens=1_000_000)
        progress.update(1.0, B=5_000_000, tokens=1_000_000)
    text = capsys.readouterr().err
    assert "tokens:  50%" in text
    assert "MB/s" in text.replace("G", "M")
    assert "tokens/s" in text.split("tokens:")[-1]
    assert "100%" in text


def test_lines_elsewhere(monkeypatch, capsys):
    now = iter([0.0, 10.0, 30.0, 30.0, 30.0, 31.0, 31.0])
    monkeypatch.setattr(parallel.time, "monotonic", lambda: next(now))
    with Progress("tokens", 0.25) as progress:
        progress.update(0.3, B=100_000_000)
        progress.update(0.5, B=200_000_000)
        progress.update(0.6, B=1)
    assert capsys.readouterr().err == "tokens: 50%, 10.0MB/s, 01:00 left\n"
