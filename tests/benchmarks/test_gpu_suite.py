"""The driver of the GPU's benchmarks: order, limits, verdicts, and what it says is missing."""

import importlib.util
import io
import os
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

SUITE = ROOT / "benchmarks/gpu_suite"


@pytest.fixture
def suite(monkeypatch):
    """The driver as a module; `needs`, `parts` and `processes` can be imported."""
    monkeypatch.syspath_prepend(SUITE)
    spec = importlib.util.spec_from_file_location("gpu_suite_main", SUITE / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in ("needs", "parts", "processes", "only_needed"):
        sys.modules.pop(name, None)


def fake_part(name, code, seconds=10, limit=30, needs=()):
    """A part that runs some Python."""
    from parts import Part

    class Fake(Part):
        def command(self, python, is_check):
            return [python, "-c", code]

    return Fake(name, seconds, limit, needs, "", "")


def run_fakes(suite, monkeypatch, parts, missing=None, seconds=60.0):
    monkeypatch.setattr(suite, "probe", lambda variables: missing or {})
    monkeypatch.setattr(suite, "START", time.monotonic())
    log = io.StringIO()
    return suite.run_parts(parts, dict(os.environ), True, seconds, log), log.getvalue()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


def test_verdicts_and_the_others_go_on(suite, monkeypatch):
    codes = {"fine": 0, "wrong": 1, "cannot": 2, "last": 0}
    parts = [fake_part(name, f"print('in {name}'); exit({code})") for name, code in codes.items()]
    outcomes, log = run_fakes(suite, monkeypatch, parts)
    assert [one.verdict for one in outcomes] == ["ok", "FAILED", "could not run", "ok"]
    assert [f"in {name}" in log for name in codes] == [True] * 4
    assert "wrong      FAILED" in suite.summary(outcomes)


def test_a_part_that_hangs_is_killed_with_its_children(suite, monkeypatch, tmp_path):
    monkeypatch.setattr(suite, "LEAST", 0)
    import processes

    monkeypatch.setattr(processes, "GRACE", 0.5)
    hangs = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "print('hanging', flush=True)\n"
        "time.sleep(100)\n"
    )
    parts = [fake_part("hangs", hangs, limit=2), fake_part("next", "print('after it')")]
    outcomes, log = run_fakes(suite, monkeypatch, parts)
    assert [one.verdict for one in outcomes] == ["out of time", "ok"]
    assert outcomes[0].seconds < 10 and "hanging" in log and "after it" in log
    pids = map(int, (tmp_path / "pids").read_text().split())
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline


def test_nothing_starts_after_the_deadline(suite, monkeypatch):
    outcomes, log = run_fakes(suite, monkeypatch, [fake_part("late", "print('!')")], seconds=1)
    assert outcomes[0].verdict == "out of time" and "!" not in log


def test_the_first_line_tells_what_is_missing(suite, monkeypatch):
    parts = [
        fake_part("products", "print('ran')"),
        fake_part("train", "print('!')", needs=("deepspeed",)),
    ]
    missing = {"typing_inspection": "not found", "cpuinfo": "not found", "deepspeed": "needs both"}
    outcomes, log = run_fakes(suite, monkeypatch, parts, missing)
    assert log.splitlines()[0] == (
        "missing: typing-inspection (not found), py-cpuinfo (not found), deepspeed (needs both); "
        "cannot run: train"
    )
    assert [one.verdict for one in outcomes] == ["ok", "could not run"]
    assert "ran" in log and "!" not in log


def test_what_cannot_be_imported_is_missing(suite, tmp_path):
    from needs import probe

    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.4 or less')\n")
    (tmp_path / "typing_inspection.py").write_text("import no_such_package\n")
    variables = os.environ | {"PYTHONPATH": str(tmp_path), "DS_ACCELERATOR": "cpu"}
    found = probe(variables)
    assert found["numba"] == "Numba needs NumPy 2.4 or less"
    assert found["typing_inspection"] == "No module named 'no_such_package'"
    assert found["pydantic"] == "needs typing-inspection"
    assert found["deepspeed"] == "needs pydantic"
    assert len(found) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_or_a_compiler(suite, tmp_path):
    from needs import COMPILER, CUDA, probe

    variables = {k: v for k, v in os.environ.items() if k not in ("CC", "DS_ACCELERATOR")}
    found = probe(variables | {"PATH": str(tmp_path)})
    assert f"torch {torch.__version__}" in found[CUDA] and "gcc" in found[COMPILER]


def test_the_most_important_come_first_and_all_have_time(suite):
    from parts import DEADLINE, IF_TIME_IS_LEFT, PARTS, limit_of

    names = [part.name for part in PARTS]
    order = ["check", "tests", "train", "products", "attention", "steps", "head", "lamb", "encoder"]
    assert names == order
    scripts = {path.stem for path in (ROOT / "benchmarks/gpu").glob("*.py")}
    assert scripts == {*order} - {"tests"}
    assert DEADLINE < 600 and all(part.seconds <= part.limit for part in PARTS)
    assert sum(part.seconds for part in PARTS if part.name not in IF_TIME_IS_LEFT) < DEADLINE - 30
    assert sum(name not in ("check", "tests") for name in names) + 1 <= 8  # files; one is the log
    steps = order.index("steps")
    left = 300.0  # late: head and LAMB keep their time, but not at the cost of what comes first
    assert limit_of(PARTS[steps], PARTS[steps + 1 :], left) == left - 50
    assert limit_of(PARTS[steps], PARTS[steps + 1 :], 200.0) == 200


def test_hidden_packages_are_not_there(suite, tmp_path):
    import only_needed

    hidden = only_needed.hidden({"numpy", "hjson"}, {"pytest"})
    assert {"deepspeed", "einops"} <= hidden
    assert not hidden & {"numpy", "hjson", "pytest", "pluggy", "iniconfig"}
    (tmp_path / "sitecustomize.py").symlink_to(SUITE / "only_needed.py")
    code = (
        "import importlib.util as u; print([u.find_spec(n) is None for n in ('einops', 'hjson')])"
    )
    variables = {"PYTHONPATH": str(tmp_path), "HIDDEN": "einops"}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert found.stdout.strip() == "[True, False]"


def test_gpu_sh_runs_what_is_chosen(tmp_path):
    def call(*flags):
        command = [ROOT / "benchmarks/gpu.sh", *flags]
        variables = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path)}
        return subprocess.run(command, env=variables, capture_output=True, text=True)

    plan = call("--plan", "--parts", "lamb", "products")
    lines = plan.stdout.splitlines()
    assert plan.returncode == 0 and [line.split()[0] for line in lines[1:3]] == ["lamb", "products"]
    assert "exit code is 1" in plan.stdout
    assert call("--parts", "no_such_part").returncode == 2
    done = call("--check", "--parts", "products", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("missing: nothing")
    assert done.stdout == (tmp_path / "gpu.log").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.log", "gpu_products.json"}
