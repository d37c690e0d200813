"""An elastic launch from its start to its end; DeepSpeed, pdsh and hosts are small programs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

RUNNER = """
import subprocess, sys

parse_args = None

def main():
    include = sys.argv[sys.argv.index("--include") + 1]
    result = subprocess.Popen([sys.executable, "-S", "pdsh", include])
    sys.exit(result.wait())
"""
# Ends as pdsh does when a host is gone; as the ranks do when they are asked to stop.
PDSH = """
import sys, time
from pathlib import Path

run = Path("run")
names = sys.argv[1].split("@")
with open("started", "a") as file:
    print(sys.argv[1], file=file)
if Path("all_good").exists() and len(names) == 2:
    sys.exit(0)
while True:
    time.sleep(0.02)
    if any(Path(f"{name}.down").exists() for name in names):
        sys.exit(255)
    if (run / "STOP").exists():
        sys.exit(75)
    if Path("other_versions").exists() and len(names) == 2:
        sys.exit(2)
    if Path("done").exists():
        sys.exit(0)
    if (run / "GROW").exists() and not Path("deaf").exists():
        (run / "GROW").unlink()
        time.sleep(0.3)
        sys.exit(75 if (run / "STOP").exists() or Path("rank_was_asked").exists() else 76)
"""
HOST = """
[ -e "$1.down" ] && { echo "ssh: no route" >&2; exit 255; }
while read question; do echo 'ds_bert:{"time": 1}'; done
"""
DOOR = """
import sys
from ds_bert.launching import door, elastic
door.ONE_REQUEST = 0.3
elastic.over_ssh = lambda name, port: ["sh", "host.sh", name]
arguments = ["--hostfile", "hosts", "ds_bert/train.py", "--ds_config", "recipe.json"]
sys.exit(door.Door(arguments, 0, 0.1, 1, 0.1).launch())
"""


@pytest.fixture
def started(tmp_path):
    """Starts the door with two hosts; it is gone afterwards."""
    package = tmp_path / "packages/deepspeed/launcher"
    package.mkdir(parents=True)
    modules = {"../__init__": "", "__init__": "", "runner": RUNNER}
    modules["multinode_runner"] = "class PDSHRunner: pass"
    for path, text in modules.items():
        (package / f"{path}.py").write_text(text)
    files = {"pdsh": PDSH, "host.sh": HOST, "hosts": "nodea slots=2\nnodeb slots=2\n"}
    recipe = {"train_batch_size": 8, "ds_bert": {"output_dir": "run"}}
    for name, text in (files | {"recipe.json": json.dumps(recipe)}).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "run").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "packages")}
    with subprocess.Popen(
        [sys.executable, "-c", DOOR],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as door:
        yield door
        door.kill()


def launches(folder):
    path = folder / "started"
    return path.read_text().split() if path.exists() else []


def wait_for(folder, *expected, seconds=60):
    end = time.monotonic() + seconds
    while launches(folder) != list(expected) and time.monotonic() < end:
        time.sleep(0.02)
    assert launches(folder) == list(expected)


def test_fewer_and_all_again(started, tmp_path):
    wait_for(tmp_path, "nodea@nodeb")
    (tmp_path / "nodea.down").touch()
    wait_for(tmp_path, "nodea@nodeb", "nodeb")
    (tmp_path / "all_good").touch()
    (tmp_path / "nodea.down").unlink()
    assert started.wait(60) == 0
    assert launches(tmp_path) == ["nodea@nodeb", "nodeb", "nodea@nodeb"]
    rows = [json.loads(line) for line in (tmp_path / "run/launches.jsonl").read_text().splitlines()]
    kinds = [next(name for name in row if name != "time") for row in rows]
    assert kinds == ["hosts", "lost", "hosts", "back", "hosts"]
    assert rows[1]["exit_code"] == 255 and rows[2]["ranks"] == 2
    assert not (tmp_path / "run/GROW").exists()
    text = started.stdout.read()
    assert "launch: 1 of 2 hosts, 2 ranks: nodeb; missing: nodea (ssh: no route)" in text


def fewer(tmp_path):
    """One host runs, the other one is about to be back."""
    wait_for(tmp_path, "nodea@nodeb")
    (tmp_path / "nodea.down").touch()
    wait_for(tmp_path, "nodea@nodeb", "nodeb")


def test_a_request_while_growing_is_a_stop(started, tmp_path):
    (tmp_path / "deaf").touch()
    fewer(tmp_path)
    (tmp_path / "nodea.down").unlink()
    end = time.monotonic() + 60
    while not (tmp_path / "run/GROW").exists() and time.monotonic() < end:
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    assert started.wait(60) == 75
    assert len(launches(tmp_path)) == 2
    assert not (tmp_path / "run/GROW").exists() and not (tmp_path / "run/STOP").exists()


def test_a_rank_that_was_asked_as_well_makes_it_a_stop(started, tmp_path):
    (tmp_path / "rank_was_asked").touch()
    fewer(tmp_path)
    (tmp_path / "nodea.down").unlink()
    assert started.wait(60) == 75
    assert len(launches(tmp_path)) == 2


def test_a_host_that_comes_back_with_other_versions(started, tmp_path):
    fewer(tmp_path)
    (tmp_path / "other_versions").touch()
    (tmp_path / "nodea.down").unlink()
    wait_for(tmp_path, "nodea@nodeb", "nodeb", "nodea@nodeb", "nodeb")
    (tmp_path / "done").touch()
    assert started.wait(60) == 0
    assert "nodea is left out from now on" in started.stdout.read()


def test_a_request_while_no_host_is_there(started, tmp_path):
    wait_for(tmp_path, "nodea@nodeb")
    for name in ("nodea", "nodeb"):
        (tmp_path / f"{name}.down").touch()
    for line in started.stdout:
        if "waiting: 0 hosts answer, 1 are needed" in line:
            break
    started.send_signal(signal.SIGINT)
    assert started.wait(60) == 75
