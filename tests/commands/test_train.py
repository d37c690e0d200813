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
