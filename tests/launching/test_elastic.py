"""Which hosts a launch gets; hosts are small programs that answer while no file says otherwise."""

import json
import time
from types import SimpleNamespace

import pytest

from ds_bert.errors import ConfigurationError, RankFailed
from ds_bert.launching import elastic, look
from ds_bert.launching.command import Command
from ds_bert.launching.elastic import Elastic

HOST = """
[ -e "$1" ] && { echo "ssh: no route; try again" >&2; exit 255; }
while read question; do echo 'ds_bert:{"time": 1}'; done
"""
NAMES = ["nodea", "nodeb", "nodec"]


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """Makes an `Elastic` of three hosts with two slots each, none of which is a real one."""
    (tmp_path / "host.sh").write_text(HOST)
    (tmp_path / "hosts").write_text("".join(f"{name} slots=2\n" for name in NAMES))

    def over_ssh(name, port):
        return ["sh", str(tmp_path / "host.sh"), str(tmp_path / f"{name}.down")]

    monkeypatch.setattr(elastic, "over_ssh", over_ssh)
    monkeypatch.setattr(look, "LIMIT", 20.0)
    asked = []

    def make(batch=24, min_hosts=1, seconds=0.02):
        command = Command(["--hostfile", str(tmp_path / "hosts"), "ds_bert/train.py"])
        found = Elastic(command, batch, min_hosts, seconds, tmp_path, lambda: bool(asked))
        found.asked = asked
        return found

    return make


def down(folder, *names):
    for name in NAMES:
        (folder / f"{name}.down").unlink(missing_ok=True)
    for name in names:
        (folder / f"{name}.down").touch()


def include(arguments):
    return arguments[arguments.index("--include") + 1]


def diary(folder):
    rows = [json.loads(line) for line in (folder / "launches.jsonl").read_text().splitlines()]
    assert all(row.pop("time") for row in rows)
    return rows


@pytest.mark.parametrize(
    ("batch", "there", "chosen"),
    [
        (24, NAMES, NAMES),
        (24, ["nodec", "nodea"], ["nodea", "nodec"]),
        (8, NAMES, ["nodea", "nodeb"]),  # 8 over 6 ranks leaves a rest
        (2, ["nodeb", "nodec"], ["nodeb"]),
        (24, [], []),
    ],
)
def test_as_many_as_divide_the_batch(hosts, batch, there, chosen):
    assert hosts(batch).choose(there) == chosen


def test_a_minimum(hosts):
    assert hosts(24, min_hosts=2).choose(["nodea"]) == []
    with pytest.raises(ConfigurationError, match="min_hosts: found 4, expected 1 to 3"):
        hosts(24, min_hosts=4)
    with pytest.raises(ConfigurationError, match=r"train_batch_size 8 divides by .* from 3 to 3"):
        hosts(8, min_hosts=3)


def test_a_lost_host_the_others_and_its_return(hosts, tmp_path, capsys):
    found = hosts()
    assert include(found.ready()) == "nodea@nodeb@nodec"
    down(tmp_path, "nodea")
    assert found.is_lost(255, "a host was lost", 100.0)
    assert include(found.ready()) == "nodeb@nodec"
    assert not grows(found, 0.3)
    down(tmp_path)
    assert grows(found)
    found.tell_growth(50.0)
    assert include(found.ready()) == "nodea@nodeb@nodec"
    about = {"exit_code": 255, "reason": "a host was lost", "seconds": 100.0}
    assert diary(tmp_path) == [
        {"hosts": NAMES, "ranks": 6},
        {"lost": {"nodea": "ssh: no route"}, **about},
        {"hosts": ["nodeb", "nodec"], "ranks": 4},
        {"back": ["nodea"], "seconds": 50.0},
        {"hosts": NAMES, "ranks": 6},
    ]
    assert "lost nodea (ssh: no route) after 100 s" in capsys.readouterr().out


def grows(found, seconds=60.0):
    end = time.monotonic() + seconds
    while not (more := found.can_grow()) and time.monotonic() < end:
        time.sleep(0.02)
    found.end_look()
    return more


def test_one_answer_alone_is_not_enough(hosts, tmp_path, monkeypatch):
    down(tmp_path, "nodec")
    found = hosts(seconds=0.0)
    assert include(found.ready()) == "nodea@nodeb"
    silent = iter([{}, {"nodec": "x"}, {}, {"nodec": "x"}, {}, {}])
    monkeypatch.setattr(
        elastic, "Look", lambda _: SimpleNamespace(silent=next(silent), end=lambda: None)
    )
    assert [found.can_grow() for _ in range(6)] == [False] * 5 + [True]


def test_hosts_that_do_not_help_stop_nothing(hosts, capsys):
    found = hosts(batch=8)
    assert include(found.ready()) == "nodea@nodeb"
    assert "4 ranks: nodea, nodeb; spare: nodec" in capsys.readouterr().out
    assert not grows(found, 0.3), "8 sequences over 6 ranks"


def test_a_failure_of_none_of_them_is_no_loss(hosts):
    found = hosts()
    found.ready()
    assert not found.is_lost(1, "it ended with exit code 1", 5.0)


def test_hosts_that_came_back_and_fail_are_left_out(hosts, tmp_path, capsys):
    down(tmp_path, "nodeb")
    found = hosts()
    found.ready()
    down(tmp_path)
    assert include(found.ready()) == "nodea@nodeb@nodec"
    assert found.is_lost(6, "a rank ended", 5.0)
    assert include(found.ready()) == "nodea@nodec"
    assert "nodeb is left out from now on" in capsys.readouterr().out
    assert not grows(found, 0.3)
    assert diary(tmp_path)[-2]["failed"] == ["nodeb"]
    assert not found.is_lost(6, "a rank ended", 4000.0), "now it is not the new one's fault"
    assert include(found.ready()) == "nodea@nodec", "nor is it tried again after long"


def test_a_host_that_is_lost_again_and_again(hosts, tmp_path):
    found = hosts(min_hosts=3)
    for _ in range(3):
        down(tmp_path)
        assert include(found.ready()) == "nodea@nodeb@nodec"
        down(tmp_path, "nodeb")
        assert found.is_lost(255, "a host was lost", 5.0)
    with pytest.raises(RankFailed, match="nodeb is left out, 3 hosts are needed"):
        found.ready()


def test_a_host_that_answers_only_until_it_is_needed(hosts, tmp_path):
    down(tmp_path, "nodeb")
    found = hosts()
    found.ready()
    for _ in range(3):
        down(tmp_path)
        assert grows(found)
        found.tell_growth(5.0)
        down(tmp_path, "nodeb")
        assert include(found.ready()) == "nodea@nodec"
    down(tmp_path)
    assert not grows(found, 0.3)


def test_faults_of_long_ago_are_forgiven(hosts, tmp_path):
    found = hosts()
    for seconds in (5.0, 5.0, 4000.0):
        assert include(found.ready()) == "nodea@nodeb@nodec"
        down(tmp_path, "nodeb")
        assert found.is_lost(255, "a host was lost", seconds)
        assert include(found.ready()) == "nodea@nodec"
        down(tmp_path)
    assert include(found.ready()) == "nodea@nodeb@nodec"


def test_below_the_minimum_it_waits(hosts, tmp_path, capsys):
    down(tmp_path, "nodea", "nodec")
    found = hosts(min_hosts=2)
    pause, pauses = found._pause, []

    def comes_back():
        pauses.append(None)
        if len(pauses) == 2:
            down(tmp_path, "nodea")
        pause()

    found._pause = comes_back
    assert include(found.ready()) == "nodeb@nodec"
    assert diary(tmp_path)[0] == {"waiting": 1, "min_hosts": 2}
    assert capsys.readouterr().out.count("waiting: 1 hosts answer, 2 are needed (nodea (ssh: ") == 1


def test_a_request_ends_the_wait(hosts, tmp_path):
    down(tmp_path, *NAMES)
    found = hosts(seconds=60)
    found._pause = lambda: found.asked.append(None)
    assert found.ready() is None
