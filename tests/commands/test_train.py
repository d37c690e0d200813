"""Training started as an installed package is: by module name, from a folder without repository."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from console_lines import kinds
from distributed_util import free_port
from training_util import make_data, write_recipe
from warm import Warm

from ds_bert.commands import train
from ds_bert.errors import ConfigurationError

ENVIRONMENT = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.launcher
def test_the_launch_door_starts_the_module_and_stops_it(tmp_path, golden):
    """Two ranks until SIGUSR1 comes to the door, as from a scheduler."""
    data = make_data(tmp_path / "data/train", golden)
    section = {"max_steps": 10**6, "log_interval": 1}
    recipe = write_recipe(tmp_path, data, section=section, train_batch_size=16)
    launch = [sys.executable, ROOT / "scripts/launch.py", "--num_accelerators", "2"]
    module = ["--master_port", str(free_port()), "--module", "ds_bert.train"]
    with (tmp_path / "out").open("w") as output:
        door = subprocess.Popen(
            [*launch, *module, "--ds_config", recipe],
            env={name: ENVIRONMENT[name] for name in ENVIRONMENT if name != "DS_ACCELERATOR"},
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    end = time.monotonic() + 180
    while not (tmp_path / "run/metrics.jsonl").exists() and door.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    door.send_signal(signal.SIGUSR1)
    assert door.wait(60) == 75, (tmp_path / "out").read_text()[-3000:]
    text = (tmp_path / "out").read_text()
    assert set(kinds(text)) == {"plan", "training", "saved", "stopped", "launcher"}
    assert text.count("model: ") == 1 and "[ERROR]" in text
    assert "ranks 2" in text and "stopped on request at step" in text
    (step,) = (tmp_path / "run/checkpoints").glob("step_*")
    assert (step / "hf/model.safetensors").exists()


def test_ranks_with_other_settings_are_refused(tmp_path, golden):
    """Two processes as a launcher of one's own starts them; one has got another seed."""
    data = make_data(tmp_path / "data/train", golden)
    recipe = write_recipe(tmp_path, data, train_batch_size=16)
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        Warm(
            ["--ds_config", recipe, "--seed", seed],
            cwd=tmp_path,
            env={**ENVIRONMENT, **address, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank, seed in (("0", "42"), ("1", "7"))
    ]
    told = [process.communicate(timeout=180)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [2, 2]
    assert "seed: rank 1 (" in told[0]
    assert "has 7, rank 0 (" in told[0]
    assert "Traceback" not in told[0] + told[1]
    assert not (tmp_path / "run").exists()


def test_ranks_of_a_host_tell_a_mistake_once(tmp_path, golden, monkeypatch, capsys):
    """The first at once; the launcher then ends the others, which wait."""
    recipe = write_recipe(tmp_path, tmp_path, section={"max_steps": 0})
    waited = []
    monkeypatch.setattr(train.time, "sleep", lambda seconds: waited.append(capsys.readouterr().err))
    for local_rank in ("0", "1"):
        place = {"LOCAL_RANK": local_rank, "RANK": local_rank, "WORLD_SIZE": "2"}
        for name, value in (place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            train.main(["--ds_config", str(recipe), "--max_steps", "many"])
        assert "invalid int value: 'many'" in capsys.readouterr().err
        with pytest.raises(ConfigurationError, match="max_steps: found 0"):
            train.main(["--ds_config", str(recipe)])
    assert waited == ["", ""], "rank 1, both times, before a word"
