"""What hosts say of each other."""

import re

import pytest

from ds_bert.preflight.line import BAD, OK
from ds_bert.preflight.meeting import (
    choose_address,
    judge_address,
    judge_all_reduce,
    judge_answers,
    judge_clock,
    judge_folder,
    judge_port,
)

CANDIDATES = [["docker0", "172.17.0.1"], ["eth0", "10.0.0.1"]]
DONE = {"stage": "done", "backend": "nccl", "bytes": 2**28, "seconds": 0.01, "bandwidth": 4e10}


def ranks(**changed):
    """Four ranks on two hosts; of one, by its number as r0 to r3, other values."""
    told = [{"rank": rank} | DONE | changed.get(f"r{rank}", {}) for rank in range(4)]
    return {"host0": told[:2], "host1": told[2:]}


def test_who_answers():
    assert judge_answers(["a", "b"], {}, 2).state == OK
    line = judge_answers(["a", "b"], {"b": "connection refused"}, 2)
    assert str(line).startswith("BAD  reachable       b: connection refused; mend that, or leave")


@pytest.mark.parametrize("seconds", [5, -5])
def test_clock(seconds):
    clocks = {"a": (100.0, 0.1), "b": (100.3, 0.1), "c": (100 + seconds, 0.1)}
    line = judge_clock(clocks, 2)
    assert line.state == BAD
    assert line.text.startswith("c: ") and ("ahead" in line.text) == (seconds > 0)
    clocks["c"] = (99.9, 0.1)
    assert judge_clock(clocks, 2).text == "all within 400.00 ms (known to 100.00 ms)"


def test_a_clock_is_not_blamed_for_a_slow_answer():
    assert judge_clock({"a": (0.0, 0.1), "b": (0.0, 0.1), "c": (5.0, 4.0)}, 2).state == OK


def test_address():
    all_good = {"172.17.0.1": None, "10.0.0.1": None}
    no_docker = {"172.17.0.1": "timed out", "10.0.0.1": None}
    line = judge_address({"h0": all_good, "h1": all_good}, CANDIDATES, "h0", 29500)
    assert line.text == "172.17.0.1 (docker0 of h0) port 29500, reached by all"
    reached = {"h0": all_good, "h1": no_docker}
    line = judge_address(reached, CANDIDATES, "h0", 29500)
    assert line.state == BAD
    assert line.text == (
        "h1: does not reach 172.17.0.1 (docker0 of h0): timed out; all reach 10.0.0.1 (eth0): "
        "start with --master_addr 10.0.0.1"
    )
    assert choose_address(reached, CANDIDATES) == "10.0.0.1"
    none = {"h1": {"172.17.0.1": "timed out", "10.0.0.1": "refused"}}
    assert choose_address(none, CANDIDATES) is None
    assert "firewall" in judge_address(none, CANDIDATES, "h0", 29500).text


def test_port():
    assert judge_port({}, "h0", 29500).state == OK
    line = judge_port({"error": "Address already in use", "free": 29501}, "h0", 29500)
    assert line.text == "h0: 29500: Address already in use; --master_port 29501 is free"


def test_folder():
    sees = {"a": {"sees": True}, "b": {"sees": True}}
    assert judge_folder("runs", {}, sees).state == OK
    line = judge_folder("runs", {}, sees | {"b": {"sees": False}})
    assert line.state == BAD and line.text.startswith("b: does not see what the first host writes")
    assert judge_folder("runs", {"error": "runs: No space left on device"}, sees).state == BAD


def test_all_reduce():
    line = judge_all_reduce(ranks(), {}, "10.0.0.1:29500", 50)
    assert line.text == (
        "4 ranks by nccl at 10.0.0.1:29500: 268MB in 0.010 s, bus bandwidth 40.0GB/s"
    )
    slow = ranks(r3={"bandwidth": 1e9, "seconds": 0.4})
    assert "1.00GB/s" in judge_all_reduce(slow, {}, "x", 50).text, "the slowest"


STUCK = {
    "failed at its start: No module named torch": {
        "r2": {"stage": "none", "error": "No module named torch"}
    },
    "failed on its way to the others: no docker0": {
        "r0": {"stage": "came"},
        "r1": {"stage": "came", "error": ""},
        "r2": {"stage": "came", "error": "no docker0"},
    },
    "did not come to 10.0.0.1:29500 within 50 s": {
        "r3": {"stage": "started"},
        "r0": {"stage": "came"},
    },
    "came to 10.0.0.1:29500, but did not get through to the others": {"r2": {"stage": "came"}},
    "met the others, but was not done within 50 s": {"r2": {"stage": "met"}},
    "failed at its end: the sum is 7.0": {"r2": {"error": "the sum is 7.0"}},
}


@pytest.mark.parametrize("what", STUCK)
def test_all_reduce_names_the_host_that_is_behind(what):
    line = judge_all_reduce(ranks(**STUCK[what]), {}, "10.0.0.1:29500", 50)
    assert line.state == BAD
    assert re.match(r"host1: rank [23] ", line.text) and "host0" not in line.text
    assert what in line.text


def test_a_host_that_goes_meanwhile():
    line = judge_all_reduce({}, {"host1": "no answer in time"}, "x", 50)
    assert str(line).startswith("BAD  all-reduce      host1: no answer in time")
