"""The watcher of a run's checkpoints: each once, none half, until the run has ended."""

import errno
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from data_util import exit_code

from ds_bert import files
from ds_bert.checkpoint.manifest import write_manifest
from ds_bert.commands.score import main
from ds_bert.errors import ConfigurationError, TrainingDiverged
from ds_bert.run_report.scores import SETTINGS, read_scores
from ds_bert.scoring import run_folder, watch
from ds_bert.scoring.options import WatchOptions
from ds_bert.scoring.watch import Watcher

ABOUT = {**dict.fromkeys(SETTINGS, "x"), "num_train": 2, "num_test": 2}
LAST = 400


def save(run, step, weights=None, is_sealed=True):
    """A checkpoint with weights that are a text."""
    folder = run / f"checkpoints/step_{step}"
    (folder / "hf").mkdir(parents=True)
    (folder / "hf/model.safetensors").write_text(weights or f"weights {step}")
    (folder / "engine").mkdir()
    (folder / "engine/state").write_text("not for the watcher")
    names = ("hf/model.safetensors", "engine/state")
    if is_sealed:
        write_manifest(folder, {name: files.seal_file(folder / name) for name in names}, {})
    return folder


@pytest.fixture
def run(tmp_path):
    """The folder of a run with two checkpoints of four."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps({"ds_bert": {"max_steps": LAST}}))
    save(tmp_path / "run", 100), save(tmp_path / "run", 200)
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def reports(monkeypatch, tmp_path):
    """What is asked of the report; temporary folders are in a place of their own."""
    asked = []

    class Report:
        def __init__(self, folder, seconds):
            pass

        def update(self):
            asked.append("update")

        def close(self, is_over):
            asked.append("close")

    monkeypatch.setattr(watch, "ReportWriter", Report)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield asked
    assert not list((tmp_path / "tmp").glob("ds_bert_*"))


class FakeScorer:
    """Notes which weights it is given."""

    def __init__(self, *_, during=lambda step: None):
        self.about, self.seen, self._during = ABOUT, [], during

    def __call__(self, name, folder, is_trained=True):
        step = int(Path(name).name.removeprefix("step_"))
        self._during(step)
        text = (folder / "model.safetensors").read_text()
        assert sorted(path.name for path in folder.parent.iterdir()) == ["hf"]
        self.seen.append(text if is_trained else "untrained")
        return {**self.about, "checkpoint": name, "trained": is_trained, "accuracy": step / 1000}


def scored(run, scorer=None, every_steps=1, patience=0.0, **how):
    """What a watcher scores until it ends."""
    scorer = scorer or FakeScorer()
    options = WatchOptions(every_steps=every_steps, patience=patience)
    Watcher(run, options, scorer, **how).watch()
    return scorer.seen


def test_all_that_lie_there_each_once(run, reports):
    save(run, 300), save(run, LAST)
    told = []
    assert scored(run, tell=told.append) == [f"weights {step}" for step in (100, 200, 300, LAST)]
    assert reports == ["update"] * 4 + ["close"]
    rows = read_scores(run)
    assert rows == told and [row["step"] for row in rows] == [100, 200, 300, LAST]
    assert rows[1] | {"time": 0, "fingerprint": ""} == {
        **{"step": 200, "time": 0, "fingerprint": "", "trained": True, "accuracy": 0.2},
        **{**ABOUT, "checkpoint": str(run / "checkpoints/step_200")},
    }
    assert scored(run) == []
    other = FakeScorer()
    other.about = {**ABOUT, "test_file": "y"}
    assert len(scored(run, other)) == 4, "another task"


def test_every_so_many_steps_and_the_last_one(run):
    save(run, 300), save(run, LAST + 50)
    assert scored(run, every_steps=200) == ["weights 200", f"weights {LAST + 50}"]


def test_random_weights_once(run):
    assert scored(run, untrained=True) == ["untrained", "weights 100", "weights 200"]
    save(run, 300)
    assert scored(run, untrained=True) == ["weights 300"]
    assert [row["step"] for row in read_scores(run) if not row["trained"]] == [0]


def test_while_training_goes_on(run, monkeypatch, reports):
    """Each nap of the watcher is a moment of the run: a sign of life, a save, an end."""
    (run / "run.lock").write_text("{}")
    beats = iter(range(1, 99))

    def live(step=None):
        os.utime(run / "run.lock", ns=(0, next(beats)))
        if step is not None:
            save(run, step)

    end = (run / "run.lock").unlink
    naps = iter([live, lambda: live(300), live, lambda: live(LAST), end])
    monkeypatch.setattr(watch.time, "sleep", lambda _: next(naps)())
    now = [0.0]

    def minutes(step):
        now[0] += 2 * run_folder.SILENCE
        live()

    monkeypatch.setattr(run_folder.time, "monotonic", lambda: now[0])
    scorer = FakeScorer(during=minutes)
    assert scored(run, scorer, patience=1e9) == [
        f"weights {step}" for step in (100, 200, 300, LAST)
    ]
    assert next(naps, None) is None
    assert reports == ["close"], "while it goes on, the run writes its report itself"


@pytest.mark.parametrize("is_there", [False, True])
def test_a_run_that_is_gone_before_its_end(run, monkeypatch, is_there):
    """Its lock may have stayed behind, as after a crash."""
    if is_there:
        (run / "run.lock").write_text("{}")
    monkeypatch.setattr(run_folder, "SILENCE", 0.2)
    naps = []
    monkeypatch.setattr(watch, "LOOK", 0.05)
    sleep = watch.time.sleep
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: naps.append(sleep(seconds)))
    assert len(scored(run, patience=0.2)) == 2
    assert 1 <= len(naps) < 20


def test_nothing_half_written_or_damaged(run, capsys):
    save(run, 300, is_sealed=False)
    save(run, 350, "as it was")
    (run / "checkpoints/step_350/hf/model.safetensors").write_text("as it is.")
    save(run, LAST)
    assert scored(run) == ["weights 100", "weights 200", f"weights {LAST}"]
    told = capsys.readouterr().err
    assert "step 350 is left out: hf/model.safetensors does not match its checksum" in told
    assert "300" not in told


def test_a_score_that_diverges_leaves_the_others(run, capsys):
    def diverge(step):
        if step == 100:
            raise TrainingDiverged("the loss is nan")

    assert scored(run, FakeScorer(during=diverge)) == ["weights 200"]
    assert "step 100 is left out: the loss is nan" in capsys.readouterr().err


def test_no_room_for_a_copy_is_told_and_not_taken_for_a_bad_checkpoint(run, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder.shutil, "copyfile", full)
    with pytest.raises(ConfigurationError, match="No space left on device while a model was"):
        scored(run)


def test_deleted_by_its_run(run, capsys):
    """One while it is scored, which is no harm, and the next before its turn."""
    save(run, 300), save(run, LAST)

    def during(step):
        for other in (100, 200) if step == 100 else ():
            shutil.rmtree(run / f"checkpoints/step_{other}")

    seen = scored(run, FakeScorer(during=during))
    assert seen == ["weights 100", "weights 300", f"weights {LAST}"]
    told = capsys.readouterr().err.splitlines()
    assert told.count("step 200 is left out: its run has deleted it before its turn") == 1


def test_a_model_vanishes_while_it_is_copied(run, capsys, monkeypatch):
    save(run, LAST)
    copy = shutil.copyfile

    def vanish(source, target):
        if "step_100" in str(source):
            shutil.rmtree(source.parent.parent)
        return copy(source, target)

    monkeypatch.setattr(run_folder.shutil, "copyfile", vanish)
    assert scored(run) == ["weights 200", f"weights {LAST}"]
    told = capsys.readouterr().err.splitlines()
    assert told.count("step 100 is left out: its run has deleted it before its turn") == 1


def test_a_run_that_went_back(run):
    scored(run)
    shutil.rmtree(run / "checkpoints/step_200")
    save(run, 200, "other weights")
    assert scored(run) == ["other weights"]


def test_rows_behind_one_that_was_cut_off(run):
    (run / "scores.jsonl").write_text('{"step": 100, "trai')
    assert len(scored(run)) == 2
    assert [row["step"] for row in read_scores(run)] == [100, 200]


def test_no_run(tmp_path):
    with pytest.raises(ConfigurationError, match="found no checkpoint that could be scored"):
        scored(tmp_path / "none")


def command(run, *arguments):
    task = ("--task", "pairs", "--train_file", "a.csv", "--test_file", "b.csv")
    return exit_code(main, "--checkpoint", run, *task, *arguments)


def test_a_signal_ends_it(run, capsys, monkeypatch):
    def scorer(_):
        return FakeScorer(during=lambda step: step == 200 and os.kill(os.getpid(), signal.SIGTERM))

    monkeypatch.setattr("ds_bert.scoring.job.Scorer", scorer)
    assert command(run, "--watch") == 130
    out, err = capsys.readouterr()
    assert [json.loads(line)["step"] for line in out.splitlines()] == [100]
    assert "Traceback" not in err and [row["step"] for row in read_scores(run)] == [100]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--every_steps", "5"), "every_steps: found without --watch"),
        (("--watch", "--output", "x.json"), "output: found x.json with --watch"),
        (("--watch", "--compare", "x"), "compare: found x with --watch"),
        (("--watch", "--every_steps", "0"), "every_steps: found 0, expected at least 1"),
    ],
)
def test_flags_that_do_not_fit(run, capsys, arguments, expected):
    assert command(run, *arguments) == 2
    assert expected in capsys.readouterr().err


def test_a_checkpoint_is_no_run(run, capsys):
    assert command(run / "checkpoints/step_100", "--watch") == 2
    assert "expected the folder of a run" in capsys.readouterr().err
