"""What draws a run's curves: read back with each tracker's own reader; none can harm the run."""

import importlib.util
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ds_bert.errors import ConfigurationError
from ds_bert.trackers import trackers as module
from ds_bert.trackers.names import is_installed, resolve
from ds_bert.trackers.tracker import Bookmark
from ds_bert.trackers.trackers import Trackers

CONFIG = {"ds_bert": {"max_steps": 40, "packed": False}, "optimizer": {"params": {"lr": 0.5}}}
NAME = "train/mlm_loss"


def needs(name):
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs the package {name}, which is absent")


def run(folder, tracker, start, end, offset=0.0, is_branch=False):
    """A process that goes from a step to another, with a row at each tenth step; as RunLog does."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.open()] if path.is_file() else []
    rows = [row for row in rows if row["step"] <= start]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Trackers(tracker, folder, start, is_branch) as trackers:
        for step in range(start + 10, end + 1, 10):
            row = {"mlm_loss": step + offset, "mfu": None, "trust": {"a.b": 0.25}, "time": 1e9}
            with path.open("a") as file:
                file.write(
                    json.dumps({"kind": "train", "step": step, "started": 1e9, **row}) + "\n"
                )
            trackers.log("train", step, row)
            trackers.log("validation", step, {"mlm_loss": -step})
            trackers.log("end", step, {"seconds": 3.0})


def tensorboard_curves(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    scalars = events.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in scalars}, events


def test_tensorboard_draws_every_step_once(tmp_path):
    needs("tensorboard")
    folder = tmp_path / "run"
    run(folder, "none", 0, 20)  # drawn by the next one
    run(folder, "tensorboard", 20, 50)  # ends without a checkpoint behind step 30
    run(folder, "tensorboard", 30, 60, offset=0.5)
    curves, events = tensorboard_curves(folder)
    assert curves == {
        NAME: [(10, 10.0), (20, 20.0), (30, 30.0), (40, 40.5), (50, 50.5), (60, 60.5)],
        "train/trust/a.b": [(step, 0.25) for step in range(10, 61, 10)],
        "validation/mlm_loss": [(step, -step) for step in range(30, 61, 10)],
    }
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"ds_bert.max_steps" in start and b"optimizer.params.lr" in start


def wandb_history(folder):
    """Id and rows (step, values) of each file, in the order of their making."""
    program = Path(sys.executable).with_name("wandb")
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        command = [program, "leet", "inspect", "--json", path]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        records = [json.loads(line) for line in text.splitlines()]
        start = next(r["run"] for r in records if r["type"] == "run")
        rows = [r["history"] for r in records if r["type"] == "history"]
        steps = {row["step"]["num"]: row["item"] for row in rows}
        found.append((start["run_id"], start["config"]["update"]["ds_bert"], steps))
    return found


def test_wandb_goes_on_with_its_run(tmp_path, monkeypatch):
    needs("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    run(folder, "wandb", 0, 20)
    time.sleep(1.1)  # its folders are named by the second
    run(folder, "wandb", 10, 30, offset=0.5)
    (first, config, before), (second, _, after) = wandb_history(folder)
    assert first == second
    assert config == CONFIG["ds_bert"]
    assert {step: row[NAME] for step, row in before.items()} == {10: 10.0, 20: 20.0}
    assert {step: row[NAME] for step, row in after.items()} == {30: 30.5}
    assert after[30]["validation/mlm_loss"] == -30


def test_trackio_goes_on_with_its_run(tmp_path):
    """In processes of their own: it reads where to write when it is imported."""
    needs("trackio")
    code = f"""
import os, sys
os.environ["TRACKIO_DIR"] = {str(tmp_path / "db")!r}
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from pathlib import Path
from test_trackers import run
run(Path({str(tmp_path / "run")!r}), "trackio", 0, 20)
run(Path({str(tmp_path / "run")!r}), "trackio", 10, 30, offset=0.5)
from trackio.sqlite_storage import SQLiteStorage
print([(r["step"], r["train/mlm_loss"]) for name in SQLiteStorage.get_runs("ds_bert")
       for r in SQLiteStorage.get_logs("ds_bert", name) if "train/mlm_loss" in r])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[(10, 10.0), (20, 20.0), (30, 30.5)]"], done.stderr


def test_mlflow_goes_on_with_its_run(tmp_path, monkeypatch):
    needs("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a data base needs the whole of mlflow
    import mlflow

    mlflow.set_tracking_uri(f"file:{tmp_path / 'mlruns'}")
    folder = tmp_path / "run"
    run(folder, "mlflow", 0, 20)
    run(folder, "mlflow", 10, 30, offset=0.5)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("ds_bert")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, NAME)
    assert [(point.step, point.value) for point in history] == [(10, 10.0), (20, 20.0), (30, 30.5)]
    assert found.data.params["optimizer.params.lr"] == "0.5"
    assert found.info.run_name == "run" and found.info.status == "FINISHED"


class Fake:
    """A tracker that keeps what it is told, or fails."""

    def __init__(self, start):
        self.id, self.rows = start.id or f"run {len(self.made)}", []
        self.made.append(self)
        if self.fails == "start":
            raise ConnectionError("no network\nand more about it")

    def log(self, step, values):
        if self.fails == "rows":
            raise OSError("disk is full")
        if self.fails == "hangs":
            self.gate.wait()
        self.rows.append((step, values.get(NAME)))

    def close(self):
        if self.fails == "end":
            raise SystemExit(1)


@pytest.fixture
def fake(monkeypatch):
    kind = type("Fake", (Fake,), {"made": [], "fails": "", "gate": threading.Event()})
    monkeypatch.setitem(module.TRACKERS, "mlflow", kind)
    monkeypatch.setattr(module, "resolve", lambda report_to: [report_to])
    yield kind
    let_go(kind)


def let_go(kind):
    """Let a tracker that hangs go on, and its thread end."""
    kind.fails = ""
    kind.gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("tracker"):
            thread.join(10)


@pytest.mark.parametrize(
    ("fails", "why"),
    [
        ("start", "no network"),
        ("rows", "disk is full"),
        ("end", "1"),
        ("hangs", "it has not answered for 0 s"),
    ],
)
def test_a_tracker_that_fails_is_a_warning(tmp_path, fake, monkeypatch, capsys, fails, why):
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    fake.fails = fails
    start = time.monotonic()
    run(tmp_path / "run", "mlflow", 0, 50)
    assert time.monotonic() - start < 5
    assert capsys.readouterr().out == (
        f"warning: mlflow: {why}; the run goes on without it, what it lacks follows at the next "
        "start\n"
    )
    let_go(fake)
    run(tmp_path / "run", "mlflow", 50, 60)
    rows = [row for made in fake.made for row in made.rows if row[1] is not None]
    assert sorted(rows) == [(step, float(step)) for step in range(10, 61, 10)]


def test_a_row_that_waits_too_long(tmp_path, fake, monkeypatch, capsys):
    monkeypatch.setattr(module, "_MOST", 3)
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    fake.fails = "hangs"
    run(tmp_path / "run", "mlflow", 0, 50)
    assert capsys.readouterr().out.count("warning: mlflow: it has not answered for long;") == 1


def test_who_goes_back_gets_a_run_of_its_own(tmp_path, fake):
    folder = tmp_path / "run"
    run(folder, "mlflow", 0, 40)
    run(folder, "mlflow", 20, 50, offset=0.5)  # after a crash
    run(folder, "mlflow", 20, 30, offset=0.7, is_branch=True)
    run(folder, "mlflow", 30, 40, is_branch=True)  # nothing behind step 30: it is no other
    losses = [[row for row in made.rows if row[1] is not None] for made in fake.made]
    assert [made.id for made in fake.made] == ["run 0", "run 0", "run 2", "run 2"]
    assert losses[1] == [(50, 50.5)]
    assert losses[2] == [(10, 10.0), (20, 20.0), (30, 30.7)]
    assert losses[3] == [(40, 40.0)]


def test_what_a_killed_process_may_have_held_back_is_drawn_again(tmp_path, monkeypatch):
    """W&B writes every 15 s, and a step when the next one begins."""
    now = [0.0]
    monkeypatch.setattr("ds_bert.trackers.tracker.time.monotonic", lambda: now[0])
    kept = Bookmark(tmp_path, "wandb", lag=30.0)
    kept.begin("id")
    safe = []
    for now[0], step in ((10, 10), (10, 10), (50, 20), (60, 30), (85, 40), (100, 50)):
        kept.move(step)
        safe.append(Bookmark(tmp_path, "wandb").step)
    assert safe == [-1, -1, -1, -1, 10, 20]
    kept.keep_last()
    assert Bookmark(tmp_path, "wandb").step == 50


def test_rank_0_alone_reports(tmp_path, fake, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run(tmp_path / "run", "mlflow", 0, 20)
    assert fake.made == []


def test_names(monkeypatch):
    is_there = {"tensorboard": True, "wandb": True}
    monkeypatch.setattr("ds_bert.trackers.names.is_installed", lambda name: name in is_there)
    assert resolve("auto") == ["tensorboard"]
    assert resolve("none") == []
    assert resolve("wandb, tensorboard,wandb") == ["wandb", "tensorboard"]
    is_there.clear()
    assert resolve("auto") == []
    with pytest.raises(ConfigurationError, match=r"wandb is not installed; pip install wandb"):
        resolve("wandb")
    for wrong in ("", "comet", "none,wandb", "auto,wandb"):
        with pytest.raises(ConfigurationError, match=r"report_to: found .*, expected"):
            resolve(wrong)


def test_a_folder_of_its_name_is_no_package(tmp_path, monkeypatch):
    """W&B makes a folder wandb where it is called."""
    (tmp_path / "wandb_of_nobody").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("wandb_of_nobody")
    shutil.copy(__file__, tmp_path / "wandb_of_nobody" / "__init__.py")
    importlib.invalidate_caches()
    assert is_installed("wandb_of_nobody")
