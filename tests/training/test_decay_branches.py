"""Branches that decay from a run which never does."""

import json

import pytest
from data_util import exit_code
from training_util import make_data, write_recipe

from ds_bert.commands.train import main

STABLE = {"lr_scheduler_type": "wsd", "decay_steps": 0, "save_interval": 4, "log_interval": 1}


def rows(folder):
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["kind"] == "train"]


@pytest.mark.usefixtures("one_process_group")
def test_a_branch_ends_as_a_run_that_decayed_from_the_beginning(tmp_path, golden, capfd):
    data = make_data(tmp_path / "data", golden)
    recipe = write_recipe(tmp_path, data, section={**STABLE, "max_steps": 8})
    assert exit_code(main, "--ds_config", recipe) == 0
    flags = ["--ds_config", recipe, "--decay_steps", "3"]
    branch = ["--decay_from", tmp_path / "run/checkpoints/step_4", "--output_dir", tmp_path / "b"]
    assert exit_code(main, *flags, *branch, "--save_interval", "2") == 0
    whole = ["--max_steps", "7", "--output_dir", tmp_path / "whole"]
    assert exit_code(main, *flags, *whole) == 0
    names = ("step", "loss", "learning_rate")
    assert [[row[name] for name in names] for row in rows(tmp_path / "b")] == [
        [row[name] for name in names] for row in rows(tmp_path / "whole")[4:]
    ]
    assert rows(tmp_path / "b")[-1]["step"] == 7
    assert "decay from" in capfd.readouterr().out

    # The same command again is at its end, from its own checkpoints alone.
    assert exit_code(main, *flags, *branch) == 0
    assert "already finished: 7 of 7 steps" in capfd.readouterr().out


@pytest.mark.usefixtures("one_process_group")
def test_a_branch_needs_a_folder_of_its_own(tmp_path, golden, capfd):
    data = make_data(tmp_path / "data", golden)
    recipe = write_recipe(tmp_path, data, section={**STABLE, "max_steps": 4})
    assert exit_code(main, "--ds_config", recipe) == 0
    start = tmp_path / "run/checkpoints/step_4"
    assert exit_code(main, "--ds_config", recipe, "--decay_steps", "2", "--decay_from", start) == 2
    assert "which is no branch; choose another output_dir" in capfd.readouterr().err
