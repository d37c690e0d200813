"""Of ranks that stand still together one is at fault: it is the one that is named."""

import threading
from pathlib import Path

import pytest
import torch.distributed as dist

from ds_bert.guards import standing
from ds_bert.guards.board import Beat
from ds_bert.guards.watchdog import LIMITS, Watchdog


def blamed(*heard, clock=100.0):
    """The note about ranks of which a sign of life and its second are given."""
    watchdog = Watchdog(60, Path("run"))
    watchdog._clock, watchdog._heard = clock, dict(enumerate(heard))
    return watchdog._blame()


def beat(rank, **values):
    return Beat(f"rank {rank} (host{rank})", phase="step", step=17, idle=70.0, **values)


def test_a_rank_that_does_not_answer():
    note = blamed((beat(0, moves=5), 99.9), (beat(1, moves=6), 40.0), (beat(2, moves=5), 99.9))
    assert note.rank == 1
    assert note.message.startswith("rank 1 (host1) has not answered for 130 s, last in step 17")
    assert note.is_hang
    assert note.exit_code == 6


def test_the_rank_that_is_behind():
    note = blamed((beat(0, moves=5), 99.9), (beat(1, moves=5), 99.9), (beat(2, moves=4), 99.9))
    assert note.message.startswith("rank 2 (host2) has made no progress for 70 s")


def test_the_rank_that_does_not_wait_for_others():
    busy = beat(1, moves=5, place="training/batches.py:120")
    note = blamed((beat(0, moves=5, waits=True), 99.9), (busy, 99.9))
    assert "rank 1 (host1)" in note.message
    assert "last in step 17 (step at training/batches.py:120); stacks are in run" in note.message


def test_where_the_main_thread_is():
    place, waits = standing.main_thread()
    assert place.startswith("guards/standing.py:")
    assert not waits
    store, found = dist.HashStore(), []
    reporter = threading.Timer(0.2, lambda: found.append(standing.main_thread()))
    reporter.start()
    with pytest.raises(ValueError, match="not initialized"):
        _wait_in_torch(reporter, store)
    assert found[0][1], "it waits in torch.distributed"


def _wait_in_torch(reporter, store):
    class Group:
        """Is asked for by torch's own code, so that torch's file is in the stack meanwhile."""

        def __eq__(self, other):
            reporter.join()
            raise ValueError("not initialized")

        __hash__ = None

    dist.get_rank(Group())


def test_progress_is_counted():
    moves = standing.NOW.moves
    standing.at("step", 3)
    standing.moved()
    assert (standing.NOW.phase, standing.NOW.step) == ("step", 3)
    assert standing.NOW.moves == moves + 2


def test_every_phase_of_a_run_has_its_limit():
    source = "".join(path.read_text() for path in Path(standing.__file__).parents[1].rglob("*.py"))
    phases = {part.split('"')[1] for part in source.split("standing.at(")[1:]}
    assert phases <= LIMITS.keys()
