"""Who asks a run to stop, and how ranks hear of it."""

import subprocess
import sys
import time

import pytest
import torch
from distributed_util import run_ranks

from ds_bert.guards import standing, stop
from ds_bert.guards.stop import GROWTH, Poll, StopAgreed, StopRequest, exit_code, is_agreed, reasons

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(stop, "LOOK", 0.02)
    monkeypatch.setattr(standing, "NOW", standing.Standing())


def asked(request, seconds=5.0):
    end = time.monotonic() + seconds
    while not request.reason and time.monotonic() < end:
        time.sleep(0.01)
    return request.reason


def test_a_file_is_taken_and_obeyed(tmp_path, capsys):
    request = StopRequest()
    request.look_into(tmp_path)
    with request.looking():
        time.sleep(0.1)
        assert not request.reason
        (tmp_path / "STOP").touch()
        assert "STOP" in asked(request)
        assert not (tmp_path / "STOP").exists()
    assert not capsys.readouterr().out


def test_a_file_of_before_is_told_and_not_obeyed(tmp_path, capsys):
    (tmp_path / "STOP").touch()
    request = StopRequest()
    request.look_into(tmp_path)
    assert "STOP was there before this run and is removed" in capsys.readouterr().out
    with request.looking():
        time.sleep(0.1)
    assert not request.reason
    assert not (tmp_path / "STOP").exists()


def test_only_rank_0_looks_for_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    (tmp_path / "STOP").touch()
    request = StopRequest()
    request.look_into(tmp_path)
    with request.looking():
        time.sleep(0.1)
    assert (tmp_path / "STOP").exists() and not request.reason


def test_growth_waits_for_the_first_step_and_gives_way(tmp_path):
    grow = tmp_path / "GROW"
    grow.touch()
    request = StopRequest()
    request.look_into(tmp_path)
    assert not grow.exists(), "of a launch before"
    with request.looking():
        grow.touch()
        time.sleep(0.1)
        assert grow.exists() and not request.reason
        standing.at("step", 1)
        assert asked(request) == GROWTH and not grow.exists()
        (tmp_path / "STOP").touch()
        end = time.monotonic() + 5
        while request.reason == GROWTH and time.monotonic() < end:
            time.sleep(0.01)
    assert request.reason.endswith("STOP")
    grow.touch()
    request._look()
    assert request.reason.endswith("STOP"), "the other way round"


def test_time_is_left_for_the_step_and_the_save(monkeypatch):
    monkeypatch.setattr(stop, "_age", lambda: 40.0)  # of the 60 s
    standing.NOW.took.update(save=10.0, step=1.0)
    request = StopRequest(60.0)
    with request.looking():
        time.sleep(0.1)
        assert not request.reason
        standing.NOW.took["save"] = 13.0  # 1.5 times of which, and two steps, are not left
        assert asked(request) == "max_time"


def test_time_is_left_for_a_save_in_flight_as_well(monkeypatch):
    monkeypatch.setattr(stop, "_age", lambda: 40.0)  # of the 60 s
    standing.NOW.took.update(save=8.0, step=1.0)
    request = StopRequest(60.0)
    with request.looking():
        time.sleep(0.1)
        assert not request.reason
        standing.NOW.saves_beside = True
        assert asked(request) == "max_time"


def test_before_a_save_was_seen_a_share_is_left(monkeypatch):
    monkeypatch.setattr(stop, "_age", lambda: 92.0)
    request = StopRequest(100.0)  # 7.5 s for the save
    with request.looking():
        time.sleep(0.1)
        assert not request.reason
        assert asked(request) == "max_time"


def test_the_clock_starts_with_the_process():
    code = (
        "import time; time.sleep(1.0); from ds_bert.guards import stop; assert stop._age() > 1.0, 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_end_of_the_launcher_is_a_request(monkeypatch):
    launcher = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setenv("DS_BERT_LAUNCHER", str(launcher.pid))
    request = StopRequest()
    with request.looking():
        time.sleep(0.1)
        assert not request.reason
        launcher.communicate(b"\n")
        assert asked(request) == "its launcher has ended"
        later = StopRequest()
    with later.looking():
        assert asked(later) == "its launcher has ended"


def test_phases_know_about_the_longest_of_their_last_times(monkeypatch):
    clock = iter([10.0, 12.0, 13.0, 14.0])
    monkeypatch.setattr(standing.time, "monotonic", lambda: next(clock))
    standing.NOW.since = 10.0
    for phase in ("step", "save", "step", "data"):
        standing.at(phase)
    assert standing.NOW.took["save"] == 1.0
    assert standing.NOW.took["step"] == pytest.approx(1.8)  # after 2 and 1


def polls(number):
    """When this rank, of two, sees that rank 1 was asked in the third batch of five."""
    from ds_bert import distributed

    request = StopRequest()
    poll = Poll(request, CPU)
    for batch in range(5):
        if batch == 2 and distributed.rank() == 1:
            request.ask("a test")
        try:
            poll()
        except StopAgreed:
            return batch, is_agreed(request, CPU), reasons(request)
    return None


def codes():
    """Exit codes where rank 0 was asked for growth, and rank 1 for nothing, or to stop."""
    from ds_bert import distributed

    request, found = StopRequest(), []
    if distributed.rank() == 0:
        request.ask(GROWTH)
    for _ in range(2):
        found.append(exit_code(request))
        if distributed.rank() == 1:
            request.ask("a signal")
    return found


def polls_and_codes(number):
    return polls(number), codes()


def test_ranks_agree_at_one_point():
    assert run_ranks(polls_and_codes, 2, 0) == [((3, True, "a test"), [76, 75])] * 2
