"""What a run writes down about itself, and when it looks after its ranks."""

import importlib.metadata
import json

import pytest
from data_util import exit_code
from training_util import make_data, write_recipe

from ds_bert import __version__
from ds_bert.commands.train import main
from ds_bert.config import MICRO_BATCH
from ds_bert.model.bert import UnpaddedBert
from ds_bert.training import micro_batch_trial, run, trainer


@pytest.mark.usefixtures("one_process_group")
def test_replicas_are_compared_at_the_start_and_every_so_many_steps(tmp_path, golden, monkeypatch):
    data, seen = make_data(tmp_path / "data", golden), []
    monkeypatch.setattr(
        trainer, "require_equal_replicas", lambda model, position: seen.append(position)
    )
    section = {"max_steps": 5, "check_interval": 2}
    recipe = write_recipe(tmp_path, data, section=section)
    assert exit_code(main, "--ds_config", recipe) == 0
    assert seen == [{"step": step, "samples": 8 * step} for step in (0, 2, 4)]


@pytest.mark.usefixtures("one_process_group")
def test_a_folder_that_is_not_installed_trains(tmp_path, golden, monkeypatch):
    """Where ds_bert is imported from a folder, the package's metadata are absent."""
    distribution = importlib.metadata.distribution

    def found(name):
        if name.replace("-", "_") == "ds_bert":
            raise importlib.metadata.PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr(importlib.metadata, "distribution", found)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(micro_batch_trial, "_SECONDS", 0.0)
    data = make_data(tmp_path / "data", golden)
    recipe = write_recipe(tmp_path, data, section={"max_steps": 2}, **{MICRO_BATCH: "auto"})
    assert exit_code(main, "--ds_config", recipe) == 0
    record = json.loads((tmp_path / "run/config.json").read_text())
    assert record["versions"]["ds_bert"] == __version__
    assert record["versions"]["numpy"] == distribution("numpy").version


@pytest.mark.usefixtures("one_process_group")
def test_the_curves_are_the_rows_of_the_log(tmp_path, golden):
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = make_data(tmp_path / "data", golden)
    recipe = write_recipe(tmp_path, data, section={"eval_interval": 2, "report_to": "tensorboard"})
    assert exit_code(main, "--ds_config", recipe) == 0
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    for name in ("mlm_loss", "nsp_accuracy", "num_tokens"):
        for kind in ("train", "validation"):
            rows = [row for row in map(json.loads, lines) if row["kind"] == kind]
            found = [(event.step, event.value) for event in events.Scalars(f"{kind}/{name}")]
            assert found == [(row["step"], pytest.approx(row[name])) for row in rows]  # fp32
            assert [step for step, _ in found] == [2, 4]


def test_a_tracker_that_is_not_installed_is_refused_at_once(tmp_path, golden, monkeypatch, capsys):
    monkeypatch.setattr("ds_bert.trackers.names.is_installed", lambda name: False)
    recipe = write_recipe(tmp_path, make_data(tmp_path / "data", golden))
    assert exit_code(main, "--ds_config", recipe, "--report_to", "wandb") == 2
    assert "error: report_to wandb: wandb is not installed; pip install wandb" in "".join(
        capsys.readouterr()
    )
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.usefixtures("one_process_group")
def test_the_plan_says_how_often_to_save(tmp_path, golden, capsys):
    """Young's formula by hand: a save of 1 s, sqrt(2 x 1 x 86,400) = 416 s; a month: 2,277 s."""
    recipe = write_recipe(tmp_path, make_data(tmp_path / "data", golden))
    assert exit_code(main, "--ds_config", recipe, "--dry_run") == 0
    told = (
        "best every 7 minutes if a host fails once a day, 38 if once a month (1 host, 1.0 s a save)"
    )
    assert f"saving: {told}" in capsys.readouterr().out


@pytest.mark.usefixtures("one_process_group")
def test_kernels_that_were_chosen_by_trial_stay_those_of_the_run(tmp_path, golden, monkeypatch):
    """A trial by time could end otherwise at the next start; another device has a trial anew."""
    data, asked = make_data(tmp_path / "data", golden), []
    prepare = UnpaddedBert.prepare

    def recorded(self, *arguments, only=None, **options):
        asked.append(only)
        return prepare(self, *arguments, only=only, **options)

    monkeypatch.setattr(UnpaddedBert, "prepare", recorded)
    for max_steps in (2, 4):
        recipe = write_recipe(tmp_path, data, section={"max_steps": max_steps})
        assert exit_code(main, "--ds_config", recipe) == 0
    assert asked == [None, ["looped_attention"]]
    monkeypatch.setattr(run, "device_name", lambda device: "another")
    recipe = write_recipe(tmp_path, data, section={"max_steps": 6})
    assert exit_code(main, "--ds_config", recipe) == 0
    assert asked[2:] == [None]
