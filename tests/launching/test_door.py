"""The door before DeepSpeed's launcher: real processes and signals; DeepSpeed and ranks are small.

The stand-in for DeepSpeed starts and ends ranks as 0.19.8 does, without importing torch.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from ds_bert.errors import ConfigurationError
from ds_bert.launching.door import Door

RUNNER = """
import os, subprocess, sys

parse_args = None

def main():
    args = sys.argv[1:]
    if args[0] == "--hostfile":  # as through pdsh
        command = [sys.executable, args[1], *args[2:]]
    elif args[0] == "--bad":
        raise ValueError("Hostfile is not formatted correctly")
    else:
        command = [sys.executable, "-u", "-m", "deepspeed.launcher.launch", *args]
    result = subprocess.Popen(command)
    result.wait()
    if result.returncode > 0:
        sys.exit(result.returncode)
"""
LAUNCH = """
import os, signal, subprocess, sys, time

ranks = [
    subprocess.Popen([sys.executable, "-S", *sys.argv[1:]], env={**os.environ, "RANK": str(rank)})
    for rank in range(2)
]
def end(*_):
    for rank in ranks:
        rank.terminate()
        rank.wait()
    sys.exit(code or 1)

code = 0
signal.signal(signal.SIGTERM, end)
while any(rank.poll() is None for rank in ranks):
    time.sleep(0.05)
    for rank in ranks:
        if rank.poll():
            code = rank.returncode
            end()
"""
RANK = """
import os, signal, sys, time
from pathlib import Path

rank, what, folder = os.environ["RANK"], sys.argv[1], Path(sys.argv[2])
starts = len(list(folder.glob(f"pid_{rank}_*")))
asked = []

def stop(number, _):
    asked.append(number)
    if what == "stubborn" and len(asked) == 1:
        return
    time.sleep(0.2)
    (folder / f"saved_{rank}").touch()
    os._exit(75 if len(asked) == 1 else 143)

signal.signal(signal.SIGTERM, stop)
(folder / f"pid_{rank}_{starts}").write_text(str(os.getpid()))
if what.isdigit():
    os._exit(int(what) if rank == "1" else 0)
if what == "killed" or (what == "once" and starts == 0 and rank == "1"):
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60 if what != "once" else 0.5)
"""
DOOR = """
import sys
from ds_bert.launching import door
door.ONE_REQUEST, door.REST = 0.3, 5.0
sys.exit(door.Door(sys.argv[3:], int(sys.argv[1]), float(sys.argv[2])).launch())
"""


@pytest.fixture
def started(tmp_path):
    """Starts the door with a kind of ranks; all processes are gone afterwards."""
    package = tmp_path / "packages/deepspeed/launcher"
    package.mkdir(parents=True)
    modules = {"../__init__": "", "__init__": "", "runner": RUNNER, "launch": LAUNCH}
    modules["multinode_runner"] = "class PDSHRunner: pass"
    for path, text in modules.items():
        (package / f"{path}.py").write_text(text)
    (tmp_path / "train.py").write_text(RANK)
    doors = []

    def start(*arguments, restarts=0, pause=0.1):
        command = [sys.executable, "-c", DOOR, str(int(restarts)), str(pause)]
        doors.append(
            subprocess.Popen(
                [*command, *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": str(tmp_path / "packages")},
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return doors[-1]

    yield start
    for door in doors:
        door.kill()
        door.communicate()
    for pid in pids(tmp_path):
        assert wait_until(lambda pid=pid: not is_alive(pid)), f"process {pid} is left"


def ranks(tmp_path, what):
    return [tmp_path / "train.py", what, tmp_path, "--output_dir", tmp_path / "run"]


def pids(folder):
    return [int(path.read_text() or 0) for path in sorted(folder.glob("pid_*"))]


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until(holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def both_run(folder):
    return len([pid for pid in pids(folder) if pid]) == 2


@pytest.mark.parametrize(("what", "code"), [("0", 0), ("3", 3), ("75", 75), ("killed", 137)])
def test_the_exit_code_is_that_of_the_training(started, tmp_path, what, code):
    assert started(*ranks(tmp_path, what), restarts=code in (3, 75)).wait(20) == code
    assert pids(tmp_path) and not list(tmp_path.glob("pid_*_1")), "started once"


def test_what_deepspeed_refuses_is_one_line(started):
    door = started("--bad")
    text = door.communicate(timeout=20)[0]
    assert door.returncode == 2
    assert text == "error: deepspeed: Hostfile is not formatted correctly\n"


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_reaches_all_ranks(started, tmp_path, kind):
    door = started(*ranks(tmp_path, "runs"), restarts=1)
    assert wait_until(lambda: both_run(tmp_path))
    door.send_signal(kind)
    assert door.wait(20) == 75
    assert (tmp_path / "saved_0").exists() and (tmp_path / "saved_1").exists()


def test_a_second_signal_ends_at_once(started, tmp_path):
    door = started(*ranks(tmp_path, "stubborn"))
    assert wait_until(lambda: both_run(tmp_path))
    door.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert door.poll() is None
    door.send_signal(signal.SIGTERM)
    assert door.wait(20) == 143


@pytest.mark.parametrize("victim", ["through_deepspeed", "deepspeed.launcher.launch"])
def test_ranks_whose_launcher_is_killed_save_and_end(started, tmp_path, victim):
    door = started(*ranks(tmp_path, "runs"))
    assert wait_until(lambda: both_run(tmp_path))
    kill_child(door, victim)
    assert door.wait(20) == 75
    assert (tmp_path / "saved_0").exists() and (tmp_path / "saved_1").exists()


def kill_child(door, words):
    for process in psutil.Process(door.pid).children(recursive=True):
        if any(words in part for part in process.cmdline()[:5]):
            process.kill()


def test_the_launcher_ends_with_its_door(started, tmp_path):
    door = started(*ranks(tmp_path, "runs"))
    assert wait_until(lambda: both_run(tmp_path))
    child = psutil.Process(door.pid).children()[0]
    door.kill()
    assert wait_until(lambda: not is_alive(child.pid))
    for pid in pids(tmp_path):  # which of ours see it themselves: test_stop
        os.kill(pid, signal.SIGTERM)


def test_a_crash_is_started_again_and_told(started, tmp_path):
    (tmp_path / "run").mkdir()
    assert started(*ranks(tmp_path, "once"), restarts=3).wait(20) == 0
    (row,) = map(json.loads, (tmp_path / "run/launches.jsonl").read_text().splitlines())
    assert (row["restart"], row["of"], row["exit_code"]) == (1, 3, 137)
    assert row["reason"] == "a process was ended by SIGKILL"
    assert len(pids(tmp_path)) == 4


def test_restarts_come_to_an_end_and_grow_rarer(started, tmp_path):
    door = started(*ranks(tmp_path, "1"), restarts=2, pause=0.2)
    text = door.communicate(timeout=20)[0]
    assert door.returncode == 1
    assert "restart 1 of 2 in 0 s" in text and "restart 2 of 2" in text
    assert len(list(tmp_path.glob("pid_1_*"))) == 3


def test_a_signal_between_two_starts(started, tmp_path):
    door = started(*ranks(tmp_path, "killed"), restarts=9, pause=60)
    for line in door.stdout:
        if "restart 1 of 9 in 60 s" in line:
            break
    door.send_signal(signal.SIGTERM)
    assert door.wait(20) == 75


def test_other_hosts_are_asked_through_the_folder(started, tmp_path):
    pdsh = tmp_path / "pdsh"
    pdsh.write_text(
        textwrap.dedent("""
            import sys, time
            from pathlib import Path
            stop = Path("run/STOP")
            Path("pid_0_0").write_text("0")
            stop.unlink(missing_ok=True)
            for _ in range(2):  # the first is taken for an old one, by a run that just starts
                while not stop.exists():
                    time.sleep(0.05)
                stop.unlink()
            time.sleep(1)
            sys.exit(75)
        """)
    )
    (tmp_path / "run").mkdir()
    door = started("--hostfile", pdsh, *ranks(tmp_path, "runs"))
    assert wait_until(lambda: pids(tmp_path))
    door.send_signal(signal.SIGUSR1)
    assert door.wait(20) == 75
    assert not (tmp_path / "run/STOP").exists()
    (tmp_path / "pid_0_0").unlink()


@pytest.mark.parametrize("flags", [["--resume", "run/checkpoints/step_3"], ["--rollback"]])
def test_going_back_at_each_restart_is_refused(flags):
    with pytest.raises(ConfigurationError, match="would go back again"):
        Door(["ds_bert/train.py", "--output_dir", "x", *flags], restarts=1)
