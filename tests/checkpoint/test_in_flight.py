"""Stages of a save in threads: their order, their errors, and what a watcher sees."""

import threading
import time

import pytest

from ds_bert.checkpoint.in_flight import InFlight
from ds_bert.guards import standing


def stages(*works, then=None):
    yield from works
    return then


def test_work_is_done_beside_and_in_its_order(tmp_path):
    may_end, done = threading.Event(), []

    def slow():
        may_end.wait(10)
        done.append("slow")

    save = InFlight(4, stages(slow, lambda: done.append("quick"), then=tmp_path))
    assert not save.is_busy
    assert not save.go_on()
    assert save.is_busy and not save.is_committing and done == []
    may_end.set()
    assert not save.go_on()
    assert done[0] == "slow" and save.folder is None
    assert save.go_on()
    assert done == ["slow", "quick"] and save.folder == tmp_path and not save.is_busy


def test_the_last_work_is_told_apart():
    may_end = threading.Event()
    save = InFlight(4, stages(lambda: None, may_end.wait))
    save.go_on()
    save.go_on()
    assert save.is_committing
    may_end.set()
    save.join()
    assert not save.is_committing


def test_an_error_of_the_work_is_raised_where_ranks_agree():
    def fail():
        raise RuntimeError("ours")

    save = InFlight(4, stages(fail, lambda: None))
    save.go_on()
    with pytest.raises(RuntimeError, match="ours"):
        save.go_on()


def test_who_waits_for_its_own_thread_does_not_wait_for_other_ranks():
    """So the watchdog blames the rank whose disk hangs."""
    may_end, seen = threading.Event(), []

    def look():
        time.sleep(0.2)
        seen.append(standing.main_thread())
        may_end.set()

    save = InFlight(4, stages(may_end.wait))
    save.go_on()
    threading.Thread(target=look).start()
    save.go_on()
    place, waits = seen[0]
    assert place.startswith("checkpoint/in_flight.py:") and not waits
