"""Where ranks meet: only those of one run."""

import socket
from datetime import timedelta

import pytest
import torch.distributed as dist

from ds_bert import distributed
from ds_bert.errors import ConfigurationError, RankFailed

SECOND = timedelta(seconds=1)


@pytest.fixture
def port(monkeypatch):
    """A port for rank 1 of 2; what is met there is forgotten afterwards."""
    monkeypatch.setattr(distributed, "_met", None)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        number = listener.getsockname()[1]
    values = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": number}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(distributed, "_FOUND", SECOND)
    return number


def keep_store(port):
    return dist.TCPStore("127.0.0.1", port, 2, True, wait_for_workers=False)


def test_rank_0_is_refused_where_somebody_listens(port, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with socket.socket() as listener:
        listener.bind(("", port))
        listener.listen()
        with pytest.raises(ConfigurationError, match=f"deepspeed --master_port {port + 1}"):
            distributed._meet(SECOND)


@pytest.mark.parametrize(
    "keys",
    [{}, {"world_size": "3"}, {"world_size": "2", "rank/1": "1"}],
    ids=["no run of ds_bert", "a run of more ranks", "a run that is complete"],
)
def test_other_ranks_do_not_wait_at_the_store_of_another_run(port, keys):
    store = keep_store(port)
    for key, value in keys.items():
        store.set(key, value)
    with pytest.raises(ConfigurationError, match=f"MASTER_PORT {port} on 127.0.0.1: found in use"):
        distributed._meet(SECOND)


def test_a_rank_that_does_not_come_is_named(port):
    store = keep_store(port)
    store.set("world_size", "2")
    with pytest.raises(RankFailed, match=f"rank 0 did not come to 127.0.0.1:{port} within 0:00:01"):
        distributed._meet(SECOND)


def test_an_address_where_nobody_is(port):
    with pytest.raises(RankFailed, match=f"rank 0 did not come to 127.0.0.1:{port}: "):
        distributed._meet(SECOND)


def test_ranks_of_one_run_meet(port):
    store = keep_store(port)
    store.set("world_size", "2")
    store.add("rank/0", 1)
    assert distributed._meet(SECOND) is distributed.store()
