"""Connections to hosts; ssh by a stand-in that runs what it is told on this machine."""

import sys
import time

import pytest

from ds_bert.preflight.remote import Host, NoAnswer, ask_all, here, over_ssh

STAND_IN = """#!/bin/sh
echo "a greeting of this shell"
echo "$@" | tr '\\n' ' ' > "$WORDS"
while [ "$1" != -- ]; do shift; done
exec sh -c "$3"
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder for ssh at the front of PATH; what it was called with."""
    (tmp_path / "ssh").write_text(STAND_IN)
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("WORDS", str(tmp_path / "words"))
    return tmp_path / "words"


def test_a_folder_with_words_of_a_shell_in_its_name(stand_in, tmp_path, monkeypatch):
    place = tmp_path / "a b'$(touch marker);touch marker"
    place.mkdir()
    monkeypatch.chdir(place)
    host = Host("node1", over_ssh("node1", 2222))
    assert ask_all({"node1": host}, 20, "uproot", folder=".", name="x") == ({"node1": {}}, {})
    ahead, error = host.clock(time.monotonic() + 5)
    assert abs(ahead) < 0.2 + error
    host.end()
    assert not list(tmp_path.rglob("marker"))
    assert "-o BatchMode=yes" in stand_in.read_text()
    assert "-p 2222 -- node1 cd " in stand_in.read_text()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["no-such-command"], "no-such-command: No such file or directory"),
        (["sh", "-c", "echo refused >&2; exit 255"], "refused; `ssh n true` has to work"),
        (["sh", "-c", "exit 7"], "ended with 7; folder, Python and ds_bert have to be there"),
        (["sleep", "60"], "no answer in time"),
    ],
)
def test_why_a_host_does_not_answer(command, reason):
    with pytest.raises(NoAnswer, match=reason):
        host = Host("n", command)
        host.ask("clock")
        try:
            host.answer(time.monotonic() + 0.3)
        finally:
            host.end()


def test_an_answer_may_be_an_error(tmp_path):
    host = Host("n", here())
    for question, about in (("facts", {"recipe": "absent.json"}), ("clock", {})):
        host.ask(question, **about, **FACTS if question == "facts" else {})
    found = host.answer(time.monotonic() + 20)
    assert found["recipe"] == {"error": "no absent.json"}
    assert "is not a finished data set" in found["data"]["train_data"]["error"]
    assert found["python"].startswith(f"3.{sys.version_info.minor}.")
    assert "time" in host.answer(time.monotonic() + 5), "it goes on"
    host.end()


FACTS = {"data": {"train_data": "absent"}, "length": 128, "output_dir": "runs"}
