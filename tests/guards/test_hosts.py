"""Hosts that lack something are told at the start, by ranks that stand in for each other."""

import copy
import socket
import time

import pytest

from ds_bert import distributed
from ds_bert.guards import hosts

DISK = {"folder": "x", "is_writable": True, "free": 1e12, "free_inodes": None}


@pytest.fixture
def ranks(monkeypatch):
    """Four ranks on two hosts: what the others tell; this one is rank 0 on host0."""
    mine = {"cache": DISK, "gpus": True, "shared_memory": 1 << 40, "open_files": 1 << 20}
    others = [[f"host{rank // 2}", copy.deepcopy(mine)] for rank in range(1, 4)]

    def gather(value):
        for _, facts in others:
            facts["clock"] = value[1]["clock"] + facts.pop("ahead", 0.0)
        return [("host0", value[1]), *map(tuple, others)]

    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    monkeypatch.setattr(distributed, "gather", gather)
    monkeypatch.setattr(hosts, "limits", lambda: {"shared_memory": 1 << 40, "open_files": 1 << 20})
    return others


def of_host1(ranks, **facts):
    for _, told in ranks[1:]:
        told.update(facts)


def test_nothing_to_tell(ranks, capsys):
    hosts.warn_about_hosts()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"shared_memory": 64 << 20}, "shared memory: host1: 67.1MB free, 268MB needed; docker"),
        ({"open_files": 256}, "open files: host1: 256 open files allowed, 272 needed; raise"),
        ({"cache": {**DISK, "free": 1e6}}, "cache disk: host1: 1.00MB free on the disk of x"),
        ({"ahead": 60.0}, "s ahead; set it by NTP"),
    ],
)
def test_a_warning_names_the_host(ranks, capsys, facts, expected):
    of_host1(ranks, **facts)
    hosts.warn_about_hosts()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: ") and expected in line and "host1: " in line


def test_one_process_asks_nobody(monkeypatch, capsys):
    monkeypatch.setattr(hosts, "lines", lambda: pytest.fail("asked"))
    begin = time.perf_counter()
    hosts.warn_about_hosts()
    assert time.perf_counter() - begin < 0.1 and capsys.readouterr().out == ""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_once_per_host(monkeypatch, rank):
    """Another rank takes over what the first rank of its own host has found."""
    here, calls = socket.gethostname(), []
    monkeypatch.setenv("LOCAL_RANK", rank)
    first = {"0": [], "1": [(here, ["found by the first"])]}[rank]
    monkeypatch.setattr(
        distributed, "gather", lambda mine: [("far", ["other"]), *first, mine, ("far", [])]
    )
    found = hosts.once_per_host(lambda: calls.append(1) or "found by me")
    assert (found, len(calls)) == {"0": ("found by me", 1), "1": ("found by the first", 0)}[rank]


def test_a_host_without_a_first_rank_finds_it_itself(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(distributed, "gather", lambda mine: [("far", ["other"]), mine])
    assert hosts.once_per_host(lambda: "mine") == "mine"
