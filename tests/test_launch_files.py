"""launch/: each file by its own linter, the scripts run with stand-ins for what starts ranks."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
SLURM = [path.name for path in SCRIPTS if path.suffix == ".sbatch"]
FLAGS = ("--ds_config", "a recipe", "--seed", "7")

# Starts two ranks as srun does; a signal of Slurm's reaches the tasks of a step.
SRUN = """
import os, signal, subprocess, sys
own = sys.argv[1 : sys.argv.index("python")]
assert "--kill-on-bad-exit=0" in own, own
step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "node[07-08]", "SLURM_STEP_ID": "0"}
step["SLURM_STEP_TASKS_PER_NODE"] = "1(x2)"
tasks = [
    subprocess.Popen(
        sys.argv[1 + len(own) :],
        env=os.environ | step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0"},
    )
    for rank in range(2)
]
signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
# In place of training: who it is, then a stop on request, or the exit code that is asked for.
RANK = """
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
from ds_bert import launcher
launcher.complete()
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
told = {name: os.environ.get(name) for name in names} | {"argv": sys.argv[1:]}
path = pathlib.Path("rank_" + os.environ["RANK"])
path.with_suffix(".tmp").write_text(json.dumps(told))
path.with_suffix(".tmp").rename(path)
if "EXIT" in os.environ:
    sys.exit(int(os.environ["EXIT"]))
while True:  # signal.pause would miss a signal that comes just before it
    time.sleep(0.02)
"""
# ds-bert preflight and launch: two ranks without srun; a signal reaches them as through the door.
DS_BERT = """
import os, signal, subprocess, sys
command, flags = sys.argv[1], sys.argv[2:]
with open("calls", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if command == "preflight":
    sys.exit(int(os.environ.get("PREFLIGHT", 0)))
rest = flags[flags.index("ds_bert.train") + 1 :]
port = flags[flags.index("--master_port") + 1]
meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "node07", "MASTER_PORT": port}
tasks = [
    subprocess.Popen(
        ["python", "-m", "ds_bert.train", *rest],
        env=os.environ | meeting | {"RANK": str(rank), "LOCAL_RANK": "0"},
    )
    for rank in range(2)
]
signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """
import sys
if sys.argv[1] == "requeue":
    open("requeued", "a").write(sys.argv[2] + "\\n")
else:
    assert sys.argv[1:] == ["show", "hostnames", "node[07-08]"]
    print("node07\\nnode08")
"""
PYTHON = """
import os, sys
assert sys.argv[1:3] == ["-m", "ds_bert.train"], sys.argv
os.execv(sys.executable, [sys.executable, "rank.py", *sys.argv[3:]])
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with the stand-ins; Slurm's variables of a batch script of two nodes."""
    programs = {"srun": SRUN, "scontrol": SCONTROL, "ds-bert": DS_BERT, "python": PYTHON}
    for name, text in programs.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        path = tmp_path / "bin" / name
        path.write_text(f"#!{sys.executable}{text}")
        path.chmod(0o755)
    (tmp_path / "rank.py").write_text(RANK)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    variables = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[07-08]"}
    variables |= {"SLURM_GPUS_ON_NODE": "1", "SLURM_CPUS_PER_TASK": "3"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # Of a run that this process has been itself.
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@contextmanager
def start(name, folder):
    """A script, in a group of processes that ends with the test."""
    command = ["bash", str(LAUNCH / name), *FLAGS]
    with subprocess.Popen(command, cwd=folder, start_new_session=True) as job:
        try:
            yield job
        finally:
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)


def ranks(folder):
    """What both ranks have told, as soon as they have."""
    deadline = time.monotonic() + 20
    paths = [folder / f"rank_{rank}" for rank in range(2)]
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [json.loads(path.read_text()) for path in paths]


def child(process, word):
    """The child of a shell whose command line has a word in it."""
    for number in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        if word in Path(f"/proc/{number}/cmdline").read_text():
            return int(number)
    raise AssertionError(word)


@pytest.mark.parametrize("name", SLURM)
def test_a_stop_on_request_puts_the_job_back_into_the_queue(cluster, name):
    with start(name, cluster) as job:
        told = ranks(cluster)
        # As #SBATCH --signal says: to the steps, or to the batch script (B:).
        is_step = "--signal=USR1@" in (LAUNCH / name).read_text()
        os.kill(child(job.pid, "srun") if is_step else job.pid, signal.SIGUSR1)
        assert job.wait(20) == 75
    assert (cluster / "requeued").read_text() == "4711\n"
    assert [rank["RANK"] for rank in told] == ["0", "1"]
    assert {rank["WORLD_SIZE"] for rank in told} == {"2"}
    assert {rank["MASTER_ADDR"] for rank in told} == {"node07"}
    assert len({rank["MASTER_PORT"] for rank in told}) == 1
    assert all(tuple(rank["argv"]) == FLAGS for rank in told), "quoted"
    if is_step:
        assert {rank["OMP_NUM_THREADS"] for rank in told} == {"3"}


@pytest.mark.parametrize("code", [0, 5])
@pytest.mark.parametrize("name", SLURM)
def test_other_exit_codes_are_passed_on(cluster, name, code, monkeypatch):
    monkeypatch.setenv("EXIT", str(code))
    with start(name, cluster) as job:
        assert job.wait(20) == code
    assert not (cluster / "requeued").exists()


def test_hosts_are_checked_before_a_run(cluster, monkeypatch):
    monkeypatch.setenv("PREFLIGHT", "2")
    with start("slurm_hostfile.sbatch", cluster) as job:
        assert job.wait(20) == 2
    (call,) = (cluster / "calls").read_text().splitlines()
    assert re.match(r"preflight --hostfile hosts.4711 --master_port 19711 --ds_config a rec", call)
    assert (cluster / "hosts.4711").read_text() == "node07 slots=1\nnode08 slots=1\n"


def test_torchrun(cluster, monkeypatch):
    program = cluster / "bin/torchrun"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > words\nexec sleep 60\n')
    program.chmod(0o755)
    (cluster / "bin/nvidia-smi").write_text("#!/bin/sh\necho GPU 0; echo GPU 1\n")
    (cluster / "bin/nvidia-smi").chmod(0o755)
    monkeypatch.setenv("NODES", "2")
    monkeypatch.setenv("MASTER_ADDR", "host1")
    with start("torchrun.sh", cluster) as job:
        while not (cluster / "words").exists() or "7" not in (cluster / "words").read_text():
            time.sleep(0.02)
        job.terminate()
        assert job.wait(20) == -signal.SIGTERM, "it is torchrun that gets the signal"
    words = (cluster / "words").read_text().splitlines()
    assert {"--nnodes=2", "--node-rank=0", "--nproc-per-node=2", "--master-addr=host1"} <= set(
        words
    )
    assert words[-6:] == ["--module", "ds_bert.train", *FLAGS]
    run = pytest.importorskip("torch.distributed.run")
    options = run.get_args_parser().parse_args(words)
    assert options.signals_to_handle == "SIGTERM,SIGINT,SIGUSR1" and options.module


def linter(name):
    """A program of the environment or of the machine."""
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"needs {name} (extra dev)")
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    result = subprocess.run([linter("shellcheck"), str(path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", SLURM)
def test_options_of_sbatch(name):
    text = (LAUNCH / name).read_text()
    lines = re.findall(r"^#SBATCH.*$", text, re.M)
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=[\w:@%.-]+)?", line) for line in lines)
    assert text.rindex("#SBATCH") < text.index("set -uo"), "sbatch reads up to the first command"
    assert {"#SBATCH --requeue", "#SBATCH --open-mode=append"} <= set(lines)


def test_the_dockerfile():
    result = subprocess.run(
        [linter("hadolint"), str(LAUNCH / "Dockerfile")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
    text = (LAUNCH / "Dockerfile").read_text()
    assert re.search("-c constraints.txt .*torch$", text, re.M)
    kept = re.findall("^!(.*)$", (LAUNCH / "Dockerfile.dockerignore").read_text(), re.M)
    assert all((ROOT / name).exists() for name in kept)
    needed = ("constraints.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE")
    assert {*needed, "ds_bert", "kernels", "ds_configs"} <= set(kept), "what setup.py reads"
    stem = text.split("FROM python:")[1]
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    assert f'"{stem[:4]}"' in workflow, "the Python that is tested"


def test_kubernetes():
    validate = pytest.importorskip("kubernetes_validate", reason="needs it (extra dev)")
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    for resource in (service, job):
        validate.validate(resource, "1.37", strict=True)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    address = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert f"--master-addr={address}" in container["args"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert f"--nnodes={job['spec']['completions']}" in container["args"]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={gpus}" in container["args"]
    check_flags(container["args"])


def test_skypilot():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task.keys() == {
        *("name", "num_nodes", "resources", "volumes", "workdir", "setup", "run"),
    }
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[part], text=True, check=True)
    used = set(re.findall(r"SKYPILOT_\w+", task["run"]))
    names = ("NUM_NODES", "NODE_RANK", "NUM_GPUS_PER_NODE", "NODE_IPS")
    assert used == {f"SKYPILOT_{name}" for name in names}
    check_flags(task["run"].split())


def test_skypilot_meets_at_the_first_address(cluster, monkeypatch):
    """The commands, with the variables that SkyPilot sets and a stand-in for torchrun."""
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    (cluster / "bin/torchrun").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > words\n')
    (cluster / "bin/torchrun").chmod(0o755)
    (cluster / ".venv/bin").mkdir(parents=True)
    (cluster / ".venv/bin/activate").touch()
    (cluster / "launch").symlink_to(LAUNCH)
    values = {"NUM_NODES": "2", "NODE_RANK": "1", "NUM_GPUS_PER_NODE": "8"}
    for name, value in {**values, "NODE_IPS": "10.0.0.5\n10.0.0.6"}.items():
        monkeypatch.setenv(f"SKYPILOT_{name}", value)
    subprocess.run(["bash", "-e"], input=task["run"], text=True, cwd=cluster, check=True)
    words = set((cluster / "words").read_text().splitlines())
    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=8", "--master-addr=10.0.0.5"} <= words


def check_flags(words):
    """What stands behind the module are flags of training."""
    from ds_bert.commands.train import own_flags

    start = words.index("ds_bert.train") if "ds_bert.train" in words else 0
    flags = [word[2:].partition("=")[0] for word in words[start:] if word.startswith("--")]
    assert flags and set(flags) <= own_flags()
