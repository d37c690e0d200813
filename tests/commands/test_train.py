"""Training started as an installed package is: by module name, from a folder without repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from distributed_util import free_port
from training_util import make_data, write_recipe

ENVIRONMENT = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.launcher
def test_the_launcher_starts_the_module_with_two_ranks(tmp_path, golden):
    data = make_data(tmp_path / "data/train", golden)
    recipe = write_recipe(tmp_path, data, section={"max_steps": 2}, train_batch_size=16)
    launcher = [Path(sys.executable).parent / "deepspeed", "--num_accelerators", "2"]
    module = ["--master_port", str(free_port()), "--module", "ds_bert.train"]
    result = subprocess.run(
        [*launcher, *module, "--ds_config", recipe],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "ranks 2" in result.stdout
    assert (tmp_path / "run/checkpoints/step_2/hf/model.safetensors").exists()


@pytest.mark.launcher
def test_ranks_with_other_settings_are_refused(tmp_path, golden):
    """Two processes as a launcher of one's own starts them; one has got another seed."""
    data = make_data(tmp_path / "data/train", golden)
    recipe = write_recipe(tmp_path, data, train_batch_size=16)
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "ds_bert.train", "--ds_config", recipe, "--seed", seed],
            env={**ENVIRONMENT, **address, "RANK": rank, "LOCAL_RANK": rank},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, seed in (("0", "42"), ("1", "7"))
    ]
    told = [process.communicate(timeout=180)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [2, 2]
    assert "seed: rank 1 (" in told[0]
    assert "has 7, rank 0 (" in told[0]
    assert "Traceback" not in told[0] + told[1]
    assert not (tmp_path / "run").exists()
