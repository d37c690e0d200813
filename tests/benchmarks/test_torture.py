"""The program that injects faults: its quickest rows, and that it notices broken promises."""

import json
import os
import signal
import sys
import time

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from torture import report
from torture.processes import Bad, Command, Job, living, reason
from torture.program import choose, suffer
from torture.scene import Scene, is_half_written, newest_step
from torture.stage import Stage, tree
from torture.table import FAULTS, Fault, Row, Skip

PAGE, RESULTS = ROOT / "docs/reliability.md", ROOT / "benchmarks/results/torture_cpu.json"
STOPS = RESULTS.with_name("stops_cpu.json")


def job_of(folder, line, **environment):
    return Job([Command(["bash", "-c", line], folder, folder / "out", environment)])


@pytest.fixture
def stage(tmp_path):
    """A stage with nothing on it."""
    stage = Stage(tmp_path)
    stage.base.mkdir()
    return stage


def row_of(stage, inject):
    return suffer(stage, Fault("some.fault", "some fault", inject, 1), seed=1)


def test_a_process_that_leaves_its_session_is_found_and_ended(tmp_path):
    job = job_of(tmp_path, "setsid sleep 100 & setsid sleep 100 & exit 3")
    assert job.codes == [3]
    with pytest.raises(Bad, match="2 processes were left after 0 s"):
        job.end(limit=0.3)
    assert not job.is_any_left


def test_a_rank_is_found_below_a_launcher(tmp_path):
    job = job_of(tmp_path, "RANK=1 sleep 100 & wait")
    job.wait_until(lambda: any(b"RANK=1" in names for names in living(job._mark).values()), "rank")
    time.sleep(0.1)
    job.signal(signal.SIGTERM, job.rank(1))
    assert job.end() < 5 and job.codes == [0]


def test_seconds_count_from_the_fault(tmp_path):
    job = job_of(
        tmp_path, "trap 'sleep 0.3; exit 75' TERM; echo ready; while :; do sleep 0.05; done"
    )
    job.wait_for_line("ready")
    time.sleep(0.5)
    job.signal(signal.SIGTERM, job.launcher())
    assert 0.25 < job.end() < 5 and job.codes == [75]


def test_a_run_that_ends_before_the_fault_is_no_good_row(tmp_path):
    job = job_of(tmp_path, "echo error: no disk; exit 2")
    with pytest.raises(Bad, match=r"ended before the moment .*error: no disk"):
        job.wait_for_line("step 1/")


def test_launcher_variables_are_not_inherited(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "7")
    job = job_of(tmp_path, 'echo "rank=$RANK other=$OTHER"', OTHER="1")
    job.end()
    assert job.text == "rank= other=1\n"


def test_the_reason_is_a_message_or_an_exception():
    assert reason("step 1/60 loss 2\nerror: bad\nValueError: x\n") == "error: bad"
    assert reason("Traceback\n[rank1]: RuntimeError: closed\n") == "[rank1]: RuntimeError: closed"
    assert reason("step 1/60 loss 2\n") == ""


REFUSALS = {
    "exit code 3, expected 2": "echo error: bad; exit 3",
    "no message": "exit 2",
    "a traceback beside": "echo error: bad; echo 'Traceback (most recent call last)'; exit 2",
    'the message does not say "where"': "echo error: bad; exit 2",
}


@pytest.mark.parametrize("found", REFUSALS)
def test_a_refusal_that_is_not_as_documented_is_bad(stage, found):
    def inject(scene: Scene):
        scene.refuses(job_of(scene.folder, REFUSALS[found]), 2, "where")

    row = row_of(stage, inject)
    assert found in row.verdict and row.is_bad


def test_the_documented_refusal_is_good(stage):
    def inject(scene: Scene):
        scene.refuses(job_of(scene.folder, f"echo error: no {scene.run}; exit 2"), 2, "no")

    row = row_of(stage, inject)
    assert (row.verdict, row.codes, row.happened) == ("good", "2", "error: no run")
    assert not (stage.folder / "some.fault").exists()


def test_what_is_left_running_is_bad_and_ended(stage):
    def leave(scene: Scene):
        job = job_of(scene.folder, "sleep 100")
        job.wait_until(lambda: job.is_any_left, "start")  # it is being replaced by `sleep`
        scene.jobs.append(job)

    assert row_of(stage, leave).verdict == "BAD: 1 processes were left"


def test_an_error_of_the_program_is_a_bad_row_and_a_skip_is_not(stage):
    def skip(scene):
        raise Skip("no root")

    assert row_of(stage, lambda scene: 1 / 0).verdict.startswith("BAD: ZeroDivisionError")
    assert row_of(another(stage), skip).verdict == "skipped: no root"


def another(stage):
    other = Stage(stage.folder / "other")
    other.base.mkdir(parents=True)
    return other


def test_other_weights_and_leftovers_are_bad(stage, monkeypatch):
    monkeypatch.setattr(stage, "weights", lambda recipe, ranks: "0" * 64)

    def finish(scene: Scene, name: str):
        scene._last = {"recipe": "fp32", "ranks": 2}
        path = scene.run / "checkpoints/step_60/hf/model.safetensors"
        path.parent.mkdir(parents=True)
        path.write_text("weights")
        scene.is_undisturbed()

    row = row_of(stage, lambda scene: finish(scene, "run.lock"))
    assert row.equal is False and "differ from those of an undisturbed run" in row.verdict


def test_half_written_things_and_steps(tmp_path):
    names = ("run.lock", ".step_3.12.tmp", ".step_2.deleting", ".train.partial")
    assert all(is_half_written(tmp_path / name) for name in names)
    assert not is_half_written(tmp_path / "step_3")
    for name in ("step_3", "step_20", "step_30.corrupt"):
        (tmp_path / f"checkpoints/{name}").mkdir(parents=True)
    (tmp_path / "checkpoints/step_3/manifest.json").touch()
    (tmp_path / "checkpoints/step_30.corrupt/manifest.json").touch()
    assert newest_step(tmp_path) == 3
    assert list(tree(tmp_path)) == [
        "checkpoints/step_3/manifest.json",
        "checkpoints/step_30.corrupt/manifest.json",
    ]


def test_minutes_choose_of_every_topic():
    topics = {fault.name.partition(".")[0] for fault in FAULTS}
    chosen = choose(["*"], minutes=8)
    assert {fault.name.partition(".")[0] for fault in chosen} == topics
    assert sum(fault.launches for fault in chosen) <= 8 * 60 / 15
    assert len(FAULTS) >= 50 and choose(["*"], None) == FAULTS
    with pytest.raises(SystemExit, match="no fault is called nothing"):
        choose(["nothing"], None)


def test_the_table_escapes_and_counts():
    rows = [
        vars(Row("a.b", "a|b", "x", "75", 1.25, 10, True)),
        vars(Row("c", "d", verdict="BAD: e")),
    ]
    content = {
        "machine": {"processor": "P", "cores": 2, "python": "3", "versions": {}, "commit": "c"}
    }
    lines = report.markdown({**content, "device": "cpu", "seed": 1, "rows": rows}).splitlines()
    assert lines[0].endswith("1 good, 1 bad, 0 skipped: c.")
    assert lines[-2:] == ["| a\\|b | x | 75 | 1.2 | 10 | yes |", "| d | BAD: e |  |  |  |  |"]


@pytest.mark.skipif(not RESULTS.exists(), reason="no results are committed")
def test_the_page_shows_the_committed_rows():
    assert report.markdown(report.read(RESULTS)) in PAGE.read_text(encoding="utf-8")


@pytest.mark.skipif(not STOPS.exists(), reason="no results are committed")
def test_the_page_shows_the_committed_times_to_stop():
    assert report.stops(report.read(STOPS)) in PAGE.read_text(encoding="utf-8")


@pytest.mark.launcher
def test_the_quickest_faults(tmp_path):
    output = tmp_path / "rows.json"
    command = [sys.executable, str(ROOT / "scripts/torture.py"), "--folder", str(tmp_path), "--cpu"]
    command += ["--output", str(output), "--only", "kill.plain"]
    job = Job(
        [
            Command(
                [*command, "damage.recipe.cut", "preprocess.output.dangling"],
                tmp_path,
                tmp_path / "out",
            )
        ]
    )
    job.end()
    assert job.codes == [0], job.text
    assert "3 good, 0 bad, 0 skipped" in job.text
    rows = {row["name"]: row for row in json.loads(output.read_text())["rows"]}
    assert rows["kill.plain"]["equal"] and rows["kill.plain"]["codes"] == "-9"
    assert sorted(os.listdir(tmp_path)) == ["out", "rows.json"]
