"""The command preflight on this machine alone, and what it refuses."""

import re

import pytest
from data_util import exit_code
from training_util import make_data, write_recipe

from ds_bert.commands.preflight import main


@pytest.fixture
def recipe(tmp_path, golden, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path, make_data(tmp_path / "data", golden))


def states(text):
    """State of each check."""
    return {name.strip(): state for state, name in re.findall(r"^(\w+) +(.{15}) ", text, re.M)}


def test_one_machine(recipe, capsys):
    assert exit_code(main, "--ds_config", recipe) == 0
    shown = capsys.readouterr().out
    found = states(shown)
    assert {name for name, state in found.items() if state == "skip"} >= {"clock", "all-reduce"}
    assert {state for state in found.values()} <= {"ok", "skip", "warn"}
    assert found["train_data"] == found["port"] == found["address"] == "ok"
    assert re.search(r"^\d+ checks in [\d.]+ s, nothing that would stop a run$", shown, re.M)


def test_flags_of_training_count(recipe, capsys):
    flags = ("--train_data", "absent", "--train_micro_batch_size", "3")
    assert exit_code(main, "--ds_config", recipe, *flags, "--validation_data", "") == 2
    shown = capsys.readouterr().out
    bad = {name for name, state in states(shown).items() if state == "BAD"}
    assert bad == {"batch", "train_data"}
    assert "2 of them BAD: the run would fail" in shown
    assert "validation_data" not in shown


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["--seconds", "1"], "--seconds: found 1.0, expected at least 10"),
        (["--master_port", "0"], "--master_port: found 0, expected 1 to 65535"),
        (["--master_addr", "-oX"], "--master_addr: found '-oX', expected a host"),
        (["--num_accelerators", "0"], "--num_accelerators: found 0"),
        (["--max_steps", "5"], "flags of training: found '--max_steps 5', expected --ds_config"),
        (["--ds_config", "absent"], 'ds_config "absent": no such file'),
        (["--hostfile", "absent"], "hostfile absent: cannot be read"),
    ],
)
def test_what_is_refused(capsys, line, expected):
    joined = [f"{line[0]}={line[1]}", *line[2:]] if line[1] == "-oX" else line
    assert exit_code(main, *joined) == 2
    assert expected in capsys.readouterr().err


def test_a_hostile_hostfile_starts_nothing(tmp_path, capsys):
    marker = tmp_path / "marker"
    (tmp_path / "hosts").write_text(f"-oProxyCommand=touch${{IFS}}{marker} slots=1\n")
    assert exit_code(main, "--hostfile", tmp_path / "hosts") == 2
    assert "expected the name or address of a host, nothing else" in capsys.readouterr().err
    assert not marker.exists()
