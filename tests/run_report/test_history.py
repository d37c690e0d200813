"""What is read of a run's folder: whole rows, phases, and where it went on."""

import json

import pytest
from run_report_util import healthy_rows, train_row, validation_row, write_run

from ds_bert.errors import DataError
from ds_bert.run_report.courses import marks
from ds_bert.run_report.history import read_phases


def test_a_half_written_row_is_none(tmp_path):
    run = write_run(tmp_path / "run", healthy_rows(50))
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'\xff\n[1]\n{"step": "x"}\n{"kind": "train", "st')
    (phase,) = read_phases(run)
    assert [row["step"] for row in phase.train] == [10, 20, 30, 40, 50]
    assert (phase.step, phase.max_steps, phase.warmup_steps) == (50, 1000, 100)


def test_without_a_log_it_is_no_run(tmp_path):
    with pytest.raises(DataError, match="expected the log of a run"):
        read_phases(tmp_path)


@pytest.mark.parametrize("record", ["", "[]", '{"ds_bert": '])
def test_without_settings_there_are_rows_still(tmp_path, record):
    run = write_run(tmp_path / "run", healthy_rows(50))
    (run / "config.json").write_text(record)
    (phase,) = read_phases(run)
    assert (phase.max_steps, phase.losses, phase.pair_loss) == (50, ["mlm", "nsp"], "nsp")


@pytest.mark.parametrize("place", ["", "/checkpoints/step_500", "/checkpoints/step_500/hf"])
def test_two_phases(tmp_path, monkeypatch, place):
    write_run(tmp_path / "runs/one")
    second = write_run(tmp_path / "runs/two", healthy_rows(100), init_from=f"runs/one{place}")
    for folder in (tmp_path, tmp_path.parent):  # from where the run was started, and elsewhere
        monkeypatch.chdir(folder)
        first, last = read_phases(second)
        length = 500 if place else 1000
        assert (first.folder.name, first.first, first.step) == ("one", 0, length)
        assert (last.folder.name, last.first, last.step) == ("two", length, 100)
    assert list(marks([first, last])) == [("phase 2 begins", length)]


def test_a_branch_counts_the_steps_of_its_run(tmp_path):
    write_run(tmp_path / "stable")
    rows = [train_row(step) for step in (610, 620)]
    source = str(tmp_path / "stable/checkpoints/step_600")
    stable, branch = read_phases(write_run(tmp_path / "branch", rows, decay_from=source))
    assert (stable.step, branch.first, branch.step) == (600, 0, 620)
    assert list(marks([stable, branch])) == [("phase 2 begins", 600)]


def test_a_model_from_elsewhere_is_no_phase(tmp_path):
    run = write_run(tmp_path / "run", healthy_rows(50), init_from="google-bert/bert-base-uncased")
    assert len(read_phases(run)) == 1


def test_a_run_that_began_from_itself_ends_the_search(tmp_path):
    run = write_run(tmp_path / "run", healthy_rows(50), init_from=str(tmp_path / "run"))
    assert len(read_phases(run)) == 1


def test_going_on_is_marked(tmp_path):
    later = {"started": 5000.0, "time": 5007.0}
    rows = [*healthy_rows(50), train_row(60, **later), train_row(70, **later)]
    phases = read_phases(write_run(tmp_path / "run", rows))
    assert list(marks(phases)) == [("went on", 50)]
    assert phases[0].seconds == 50 + 7


def test_pauses_before_a_row_of_training_are_with_it(tmp_path):
    pauses = {"validation_seconds": 2.0, "save_seconds": 0.5}
    rows = [train_row(10), validation_row(10, **pauses), train_row(20, save_seconds=1.0)]
    first, second = read_phases(write_run(tmp_path / "run", rows))[0].train
    assert (first["save_seconds"], second["save_seconds"]) == (0.0, 1.5)
    assert second["validation_seconds"] == 2.0


@pytest.mark.parametrize(("last_step", "is_told"), [(60, True), (50, True), (40, False)])
def test_a_divergence_is_told_until_the_run_is_past_it(tmp_path, last_step, is_told):
    run = write_run(tmp_path / "run", healthy_rows(50))
    folder = run / f"diverged/step_{last_step}"
    folder.mkdir(parents=True)
    record = {"reason": "bad", "first_step": last_step, "last_step": last_step}
    (folder / "diagnosis.json").write_text(json.dumps(record))
    assert (read_phases(run)[0].diverged is not None) == is_told
