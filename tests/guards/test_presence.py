"""Rank 0 learns of the ends of others, whatever else knocks at its door."""

import socket
import time

import pytest

from ds_bert.guards.presence import Door, Visitor


@pytest.fixture
def door():
    return Door(world_size=4)


def visitor(door, rank):
    return Visitor("127.0.0.1", door.port, rank, patience=5)


def ended(door, expected=None):
    """What the door says: as soon as it is what is expected, or after a while."""
    deadline = time.monotonic() + (0.3 if expected is None else 5)
    found = door.ended()
    while time.monotonic() < deadline and (expected is None or found != expected):
        time.sleep(0.01)
        found = door.ended()
    return found


def test_who_holds_on_has_not_ended(door):
    visitors = [visitor(door, rank) for rank in (1, 46)]
    assert ended(door) == set()
    visitors.clear()
    assert ended(door, {1, 46}) == {1, 46}


def test_who_says_goodbye_has_not_ended(door):
    for rank in (1, 2, 3):
        guest = visitor(door, rank)
        if rank == 2:
            ended(door)  # reads the greeting by itself
        if rank != 3:
            guest.leave()
        del guest
    assert ended(door, {3}) == {3}


def test_strangers_do_not_matter(door):
    with socket.create_connection(("127.0.0.1", door.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        ended(door)
    with socket.create_connection(("127.0.0.1", door.port)):
        pass
    guest = visitor(door, 1)
    assert ended(door) == set()
    del guest
    assert ended(door, {1}) == {1}


def test_without_ipv6(monkeypatch):
    create = socket.create_server

    def only_ipv4(address, *, family=socket.AF_INET, **how):
        if family == socket.AF_INET6:
            raise OSError("cannot assign requested address")
        return create(address, family=family, **how)

    monkeypatch.setattr(socket, "create_server", only_ipv4)
    door = Door(2)
    guest = visitor(door, 1)
    assert ended(door) == set()
    del guest
    assert ended(door, {1}) == {1}


def test_nobody_at_the_door():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError):
        Visitor("127.0.0.1", port, 1, patience=1)
