"""How often to save: published values, and the minimum of the cost itself."""

import pytest

from ds_bert.costs.interval import best_interval, goodput, save_seconds

MINUTE, HOUR = 60.0, 3600.0


@pytest.mark.parametrize(
    "between_failures, minutes", [(24 * HOUR, 117), (6 * HOUR, 57), (15 * MINUTE, 9.1)]
)
def test_as_published(between_failures, minutes):
    """Captions of figures 3 to 5 of Daly 2006: saves of 5 minutes."""
    found = best_interval(5 * MINUTE, between_failures) / MINUTE
    assert found == pytest.approx(minutes, abs=0.5 if minutes > 10 else 0.05)


@pytest.mark.parametrize("save", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("between_failures", [HOUR, 24 * HOUR])
def test_no_other_interval_is_better(save, between_failures):
    best = best_interval(save, between_failures)
    most = goodput(best, save, between_failures, restart=100.0)
    shares = [0.5, 0.8, 0.9, 1.1, 1.25, 2.0]
    others = [goodput(best * share, save, between_failures, restart=100.0) for share in shares]
    assert max(others) < most
    assert others[:3] == sorted(others[:3]) and others[3:] == sorted(others[3:], reverse=True)


def test_saves_that_take_longer_than_failures_leave_time():
    assert best_interval(100.0, 40.0) == 40.0


def test_larger_checkpoints_take_longer():
    assert save_seconds(0) < save_seconds(5 * 10**9) < save_seconds(10**10)
    assert save_seconds(10**10) - save_seconds(5 * 10**9) == pytest.approx(5.0)
