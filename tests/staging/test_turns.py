"""Who works, where the kernel's locks do not reach (tests/bridges/test_cache.py: where they do)."""

import json
import os
import time

import pytest

from ds_bert.staging import turns
from ds_bert.staging.turns import Turn


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(turns, "POLL_SECONDS", 0.01)


def test_a_lock_of_another_host_holds_while_its_time_moves(tmp_path, monkeypatch):
    """Where flock does not reach, only signs of life tell."""
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "far", "process": 7, "boot": "another", "nonce": "1"}))
    monkeypatch.setattr(turns, "SILENT_SECONDS", 0.2)
    turn, taken = Turn(path), []
    for moment in range(8):
        with turn:
            taken.append(turn.is_mine)
        if turn.is_mine:
            break
        assert turn.owner == "process 7 on far"
        if moment < 3:
            os.utime(path, (moment, moment))
        time.sleep(0.1)
    assert taken[:4] == [False] * 4 and taken[-1] is True
    assert not path.exists()


def test_of_two_hosts_the_last_to_sign_has_it(tmp_path, monkeypatch):
    """Where no lock reaches, both write their names at one moment, and both look again."""
    both = [Turn(tmp_path / "lock") for _ in range(2)]
    monkeypatch.setattr("fcntl.flock", refuse)

    def other(seconds):
        monkeypatch.setattr(turns.time, "sleep", lambda seconds: None)
        both[1]._file = both[0]._file
        assert both[1]._sign()

    monkeypatch.setattr(turns.time, "sleep", other)
    with both[0]:
        assert not both[0].is_mine
    assert (tmp_path / "lock").exists()


def refuse(*arguments):
    raise OSError("no locks here")
