"""Ranks that fail, hang or vanish: all end, soon, with one exit code and the first cause."""

import multiprocessing
import os
import signal
import sys
import time
from contextlib import suppress

import numba
import pytest
import torch.distributed as dist
from distributed_util import free_port

from ds_bert import distributed
from ds_bert.errors import ConfigurationError
from ds_bert.guards import standing, watchdog
from ds_bert.guards.stop import StopRequest
from ds_bert.guards.watchdog import Watchdog

LIMIT = 2  # watchdog_seconds
STOP = StopRequest()


@numba.njit("int64()")  # compiled with this line
def endless():
    number = 0
    while number >= 0:
        number = (number + 1) % 1000
    return number


def work(rank, fault):
    """Steps until something ends this rank; the fault strikes one of them in step 3."""
    for step in range(1, 1000):
        standing.at("step", step)
        time.sleep(0.05)
        if step == 2:
            wait_for_others()
        if step == 3:
            fault(rank)


def wait_for_others():
    store = distributed.store()
    if store is not None:
        store.add("here", 1)
        while store.add("here", 0) < distributed.world_size():
            standing.moved()
            time.sleep(0.05)
    time.sleep(0.5)  # signs of life have come to all


def in_a_collective(rank):
    """What a rank looks like that waits for others for ever."""
    time.sleep(60)


def raises(rank):
    if rank == 1:
        raise ConfigurationError("seed: found 7, expected 42")
    in_a_collective(rank)


def raises_everywhere(rank):
    raise ConfigurationError("seed: found 7, expected 42")


def fails(rank):
    if rank == 0:
        raise ZeroDivisionError("of rank 0")
    in_a_collective(rank)


def loses_connection(rank):
    time.sleep(0.2 * (rank != 1))
    raise RuntimeError(
        "[../third_party/gloo] Connection closed by peer" if rank != 1 else "a bug of rank 1"
    )


def is_interrupted(rank):
    os.kill(os.getpid(), signal.SIGINT)
    in_a_collective(rank)


def is_killed(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    raise RuntimeError("[../third_party/gloo] Connection closed by peer [127.0.0.1]:1")


def is_killed_unnoticed(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    standing.at("start")  # in which the others wait longest
    in_a_collective(rank)


def is_killed_at_the_end(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit(0)


def sleeps(rank):
    if rank == 1:
        in_a_collective(rank)


def asks_before_the_first_step(rank):
    standing.at("first step")
    if rank == distributed.world_size() - 1:
        STOP.ask("a test")
    in_a_collective(rank)


def is_stopped(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    in_a_collective(rank)


def keeper_is_stopped(rank):
    if rank == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    in_a_collective(rank)


def keeps_the_lock(rank):
    if rank == 1:
        endless()
    in_a_collective(rank)


def ends_late(rank):
    time.sleep(0.5 * rank)
    raise SystemExit(0)


def run_rank(fault, rank, world_size, port, folder, limit):
    sys.stderr = (folder / f"stderr_{rank}").open("w", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    watchdog.TICK, watchdog.LATE, watchdog.GONE, watchdog.GRACE = 0.1, 1.2, 1.0, 0.6
    if world_size > 1:
        distributed._met = dist.TCPStore("127.0.0.1", port, world_size, rank == 0)
    with Watchdog(limit, folder, STOP):
        work(rank, fault)


def end_of(fault, folder, world_size=2, limit=LIMIT):
    """Exit codes, and what each rank wrote to stderr."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "deepspeed", "test_watchdog"])
    port = free_port()
    ranks = [
        context.Process(target=run_rank, args=(fault, rank, world_size, port, folder, limit))
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    for process in ranks:
        with suppress(ProcessLookupError):
            process.kill()
    told = [(folder / f"stderr_{rank}").read_text() for rank in range(world_size)]
    return [process.exitcode for process in ranks], told


def errors(told):
    return [line for line in told.splitlines() if line.startswith("error: ")]


def test_the_others_end_with_the_error_of_one(tmp_path):
    codes, told = end_of(raises, tmp_path, world_size=3)
    assert codes == [2, 2, 2]
    assert errors(told[1]) == ["error: seed: found 7, expected 42"]
    assert errors(told[0])[0].startswith("error: rank 1 (")
    assert errors(told[0])[0].endswith("): seed: found 7, expected 42")
    assert not told[2], "said once"


def test_an_error_of_all_ranks_is_told_once(tmp_path):
    codes, told = end_of(raises_everywhere, tmp_path, world_size=3)
    assert codes == [2, 2, 2]
    assert 1 <= sum("seed" in text for text in told) <= 2
    assert "seed: found 7" in told[0]


def test_a_bug_in_the_rank_that_keeps_the_board(tmp_path):
    codes, told = end_of(fails, tmp_path)
    assert codes == [1, 1]
    assert told[0].count("Traceback") == 1
    assert not told[1]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_stop_before_the_first_step_is_done_ends_all(tmp_path, world_size):
    codes, told = end_of(asks_before_the_first_step, tmp_path, world_size)
    assert codes == [75] * world_size
    assert not any(told)


def test_lost_connections_do_not_bury_the_cause(tmp_path):
    codes, told = end_of(loses_connection, tmp_path, world_size=3)
    assert codes == [1, 1, 1]
    assert "Traceback" in told[1]
    assert "a bug of rank 1" in told[0]
    assert "gloo" not in told[0] + told[2]


def test_an_interrupted_run_ends_as_shells_expect(tmp_path):
    codes, told = end_of(is_interrupted, tmp_path)
    assert codes == [130, 130]
    assert "interrupted" in told[0] and "Traceback" not in told[0] + told[1]


def test_a_rank_that_was_killed_is_named(tmp_path):
    codes, told = end_of(is_killed, tmp_path)
    assert codes == [6, -signal.SIGKILL]
    assert "ended without a message, last in step" in told[0]
    assert "Traceback" not in told[0]


@pytest.mark.parametrize("fault", [is_killed_unnoticed, is_killed_at_the_end])
def test_a_rank_that_was_killed_is_missed_before_any_limit(tmp_path, fault):
    begin = time.monotonic()
    codes, told = end_of(fault, tmp_path, world_size=3, limit=600)
    assert codes[:2] == [6, -signal.SIGKILL]
    assert "rank 1 (" in told[0]
    assert "ended without a message, last in step" in told[0]
    assert time.monotonic() - begin < 30


def test_a_rank_without_progress_is_named_with_its_line(tmp_path):
    codes, told = end_of(sleeps, tmp_path)
    assert codes == [6, 6]
    (error,) = errors(told[0])
    assert error.startswith("error: rank 1 (")
    assert "has made no progress for" in error
    assert "last in step 3 (step" in error
    for rank in (0, 1):
        assert "test_watchdog.py" in told[rank]
        assert "in work" in (tmp_path / f"stacks/rank_{rank}.txt").read_text()
    assert "in in_a_collective" in told[1]


@pytest.mark.parametrize(("fault", "rank"), [(is_stopped, 1), (keeper_is_stopped, 0)])
def test_a_stopped_rank_is_named_and_ended(tmp_path, fault, rank):
    codes, told = end_of(fault, tmp_path)
    assert codes[rank] == -signal.SIGKILL, "by its sentry"
    assert codes[1 - rank] == 6
    (error,) = errors(told[1 - rank])
    assert error.startswith(f"error: rank {rank} (")
    assert "has not answered for" in error
    assert "last in step " in error


def test_compiled_code_that_keeps_pythons_lock_is_ended(tmp_path):
    codes, told = end_of(keeps_the_lock, tmp_path)
    assert codes == [6, -signal.SIGABRT]
    assert "rank 1" in errors(told[0])[0]
    assert "has not answered for" in errors(told[0])[0]
    assert "in keeps_the_lock" in told[1], "stacks, by the handler of SIGABRT"


def test_one_rank_alone_is_watched_as_well(tmp_path):
    codes, told = end_of(in_a_collective, tmp_path, world_size=1)
    assert codes == [6]
    assert "has made no progress" in errors(told[0])[0]


def test_ranks_that_end_well_wait_for_each_other(tmp_path):
    codes, told = end_of(ends_late, tmp_path)
    assert codes == [0, 0]
    assert told == ["", ""]
