"""Real processes: killed and resumed runs end with the same bits, signals save and stop.

Under the launcher in each rank; what needs no launcher starts warm.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from distributed_util import free_port, run_ranks
from safetensors.torch import load_file
from training_util import make_data, write_recipe
from warm import Warm

from ds_bert import distributed
from ds_bert.commands.train import main

TIMEOUT = 180  # seconds; a launch takes about 15
ENVIRONMENT = {
    **os.environ,
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


def command(root: Path, recipe: Path) -> list[str]:
    """train.py by the launcher with 2 ranks."""
    launcher = str(Path(sys.executable).parent / "deepspeed")
    flags = ["--num_accelerators", "2", "--master_port", str(free_port())]
    return [launcher, *flags, str(root / "ds_bert/train.py"), "--ds_config", str(recipe)]


def run(root, recipe) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(root, recipe),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        cwd=recipe.parent,
    )


def start(root, recipe) -> subprocess.Popen:
    return subprocess.Popen(
        command(root, recipe),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=recipe.parent,
        start_new_session=True,
    )


def train_on_this_rank(recipe: str) -> None:
    distributed.shutdown = lambda: None
    assert main(["--ds_config", recipe]) == 0


def wait_for(path: Path, process: subprocess.Popen | Warm) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not path.exists():
        assert process.poll() is None, f"ended before {path} was there"
        assert time.monotonic() < deadline, f"no {path} after {TIMEOUT} s"
        time.sleep(0.01)


def all_tensors(value, prefix=""):
    """Every tensor of a nested structure by its path."""
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from all_tensors(item, f"{prefix}/{key}")


def assert_same_state(one: Path, other: Path) -> None:
    """Weights, moments and random state of two checkpoints agree in every bit."""
    names = sorted(path.relative_to(one) for path in one.rglob("*.pt"))
    assert len(names) == 5, "one model file, optimizer and random state of two ranks"
    for name in names:
        found, expected = (
            dict(all_tensors(torch.load(folder / name, weights_only=False)))
            for folder in (other, one)
        )
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(found[key], tensor), (name, key)
    weights = [load_file(folder / "hf/model.safetensors") for folder in (one, other)]
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())


@pytest.mark.launcher
def test_killed_after_ten_steps_and_resumed(tmp_path, root, data):
    """20 steps in one go, and 10 steps, kill -9, the rest: 2 ranks, dropout on.

    In bf16; every precision without a launcher in test_every_step.py.
    """
    section = {"max_steps": 20, "save_interval": 10, "keep_checkpoints": 2, "ema_decay": 0.9}
    recipes = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        recipes[name] = write_recipe(
            tmp_path / name,
            data,
            section=section,
            train_batch_size=16,
            bf16={"enabled": True},
        )
    run_ranks(train_on_this_rank, 2, str(recipes["whole"]))

    process = start(root, recipes["killed"])
    latest = tmp_path / "killed/run/checkpoints/latest"
    wait_for(latest, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert latest.read_text() == "step_10\n", "killed too late to show anything"
    result = run(root, recipes["killed"])
    assert result.returncode == 0, result.stderr[-3000:]
    assert "step_10" in result.stdout

    checkpoints = [tmp_path / name / "run/checkpoints/step_20" for name in recipes]
    assert_same_state(*checkpoints)


def test_a_signal_saves_and_stops_and_the_next_start_goes_on(tmp_path, data):
    section = {"max_steps": 100_000, "save_interval": 0, "log_interval": 1}
    recipe = write_recipe(tmp_path, data, section=section)
    process = Warm(["--ds_config", recipe], tmp_path, ENVIRONMENT)
    wait_for(tmp_path / "run/metrics.jsonl", process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 75
    stopped = int((tmp_path / "run/checkpoints/latest").read_text().removeprefix("step_"))
    assert stopped > 0

    recipe = write_recipe(tmp_path, data, section=section | {"max_steps": stopped + 2})
    process = Warm(["--ds_config", recipe], tmp_path, ENVIRONMENT)
    text, _ = process.communicate()
    assert process.returncode == 0, text[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, stopped + 3))


@pytest.mark.launcher
def test_an_error_reaches_the_user_through_the_launcher(tmp_path, root, data):
    recipe = write_recipe(tmp_path, data, section={"max_stepz": 3})
    result = run(root, recipe)
    assert result.returncode == 2
    assert 'unknown key "max_stepz"; did you mean "max_steps"?' in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()
