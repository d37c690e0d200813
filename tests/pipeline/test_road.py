"""The whole road once, with a very small model, and what another call does then."""

import json
import os
import signal
import threading
import time

import pytest
from data_util import exit_code, synthetic_text
from training_util import MODEL

from ds_bert.commands.main import main
from ds_bert.errors import STOPPED_ON_REQUEST, ConfigurationError, DataError
from ds_bert.pipeline import process
from ds_bert.pipeline import verdict as verdicts
from ds_bert.pipeline.job import pretrain
from ds_bert.pipeline.plan import Plan
from ds_bert.pipeline.process import Runner
from ds_bert.pipeline.stages import product_of
from ds_bert.pipeline.state import State
from ds_bert.training.trainer import Trainer

ADAM = {"type": "AdamW", "params": {"lr": 0.001}}
QUIET = {"report_to": "none", "report_seconds": 0, "check_interval": 0}


class Here(Runner):
    """Runs commands in this process, and remembers their names."""

    def __init__(self):
        super().__init__()
        self.called = []

    def run(self, arguments, is_enough=lambda: False):
        self.called.append(arguments[0])
        return exit_code(main, *arguments)


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A plan whose road takes seconds."""
    folder = tmp_path_factory.mktemp("pretrain")
    (folder / "text.txt").write_text(synthetic_text(60))
    (folder / "model.json").write_text(json.dumps({**MODEL, "num_hidden_layers": 1}))
    phase = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 8, "optimizer": ADAM}
    first = {"model": str(folder / "model.json"), "max_seq_length": 32, "max_steps": 8}
    return {
        "input_file": [str(folder / "text.txt")],
        "output_dir": str(folder / "out"),
        "vocabulary": {"vocab_size": 120},
        "data": {"validation_fraction": 0.2, "dupe_factor": 1, "num_workers": 1},
        "phase_1": {**phase, "ds_bert": {**QUIET, **first}},
        "phase_2": {**phase, "ds_bert": {**QUIET, "max_seq_length": 64, "max_steps": 4}},
        "evaluation": {"fill_mask": 2},
    }


@pytest.fixture(scope="module")
def road(values, one_process_group):
    """The road, gone once; what was called."""
    runner = Here()
    assert pretrain(Plan(values), ["train"], runner=runner) == 0
    return runner.called


def gone(values, **named):
    """Go the road; the names of the commands that were called, and the exit code."""
    runner = Here()
    code = pretrain(Plan(values), ["train"], runner=runner, **named)
    return runner.called, code


def test_all_is_there(road, values):
    assert road == ["create-vocab", "preprocess", "train", "train", "evaluate", "export"]
    plan = Plan(values)
    assert (plan.output_dir / "model/model.safetensors").is_file()
    assert product_of(plan, "phase_1")["step"] == 8 and product_of(plan, "phase_2")["step"] == 4
    page = (plan.output_dir / "report.html").read_text()
    assert "Guesses for a hidden word" in page and "95 % interval" in page
    assert "phase_1" in page and "phase_2" in page
    kept = json.loads((plan.output_dir / "plan.json").read_text())
    assert Plan(kept) == plan


def test_called_again_it_skips_all_and_tells_the_same(road, values, capsys):
    assert gone(values) == ([], 0)
    told = capsys.readouterr().out
    assert told.count("unchanged, skipped") == 6
    assert f"model: {values['output_dir']}/model" in told
    assert "mlm_loss: " in told and "hours: " in told


def test_another_evaluation_asks_for_no_training(road, values, capsys):
    told = {**values, "evaluation": {"fill_mask": 3}}
    assert gone(told) == (["evaluate", "export"], 0)
    assert "evaluation: fill_mask was 2, is 3: made again" in capsys.readouterr().out
    assert gone(told) == ([], 0)


@pytest.mark.parametrize(
    ("phase", "section", "message"),
    [
        ("phase_2", {"seed": 7}, "phase_2: ds_bert.seed was not given, is 7, expected what"),
        ("phase_1", {"max_steps": 9}, "phase_1: ds_bert.max_steps was 8, is 9, expected what"),
    ],
)
def test_training_is_not_thrown_away(road, values, phase, section, message):
    plan = {**values, phase: {**values[phase], "ds_bert": {**values[phase]["ds_bert"], **section}}}
    before = State.read(Plan(values).output_dir)
    with pytest.raises(ConfigurationError) as error:
        gone(plan)
    assert message in str(error.value) and f"--restart_from {phase}" in str(error.value)
    assert State.read(Plan(values).output_dir) == before


def test_what_is_refused_before_the_stage_to_restart_from_leaves_all_as_it_is(road, values):
    section = {**values["phase_1"]["ds_bert"], "seed": 7}
    plan = Plan({**values, "phase_1": {**values["phase_1"], "ds_bert": section}})
    before = State.read(plan.output_dir)
    with pytest.raises(ConfigurationError, match=r"phase_1: ds_bert\.seed was not given, is 7"):
        pretrain(plan, ["train"], restart_from="phase_2", runner=Here())
    assert State.read(plan.output_dir) == before
    assert not (plan.output_dir / "phase_2.old_1").exists()


def test_what_changes_nothing_is_no_change(road, values):
    section = {**values["phase_1"]["ds_bert"], "log_interval": 3}
    plan = {**values, "phase_1": {**values["phase_1"], "ds_bert": section}}
    found = verdicts.judge(Plan(plan), State.read(Plan(plan).output_dir))
    assert found["phase_1"].kind == found["phase_2"].kind == verdicts.DONE


def test_another_text_is_noticed(road, values, tmp_path):
    text = tmp_path / "other.txt"
    text.write_text(synthetic_text(60, seed=1))
    plan = Plan({**values, "input_file": [str(text)]})
    state = State.read(plan.output_dir)
    found = verdicts.judge(plan, state)
    assert found["vocabulary"].changes == ("input_file has other content",)
    with pytest.raises(ConfigurationError, match="vocabulary: input_file has other content"):
        verdicts.require_nothing_lost(plan, found)


def test_a_run_that_is_gone_is_missed_only_where_it_is_read(road, values):
    plan = Plan(values)
    run = plan.output_dir / "phase_1"
    hidden = run.rename(run.with_name("elsewhere"))
    try:
        state = State.read(plan.output_dir)
        found = verdicts.judge(plan, state)
        assert found["phase_1"].kind == verdicts.LOST
        verdicts.require_nothing_lost(plan, found)
        del state.stages["phase_2"]
        with pytest.raises(ConfigurationError, match="phase_1: found no longer the checkpoint"):
            verdicts.require_nothing_lost(plan, verdicts.judge(plan, state))
    finally:
        hidden.rename(run)


def test_restarted_and_stopped_on_the_way_the_weights_are_the_same(
    road, values, monkeypatch, capsys
):
    plan = Plan(values)
    before = product_of(plan, "phase_2")
    finish = Trainer._finish

    def stops(self, *given):
        finish(self, *given)
        if self.state.step == 3:
            self.stop.ask("a test")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_finish", stops)
        assert gone(values, restart_from="phase_1") == (["train"], STOPPED_ON_REQUEST)
    assert "phase_1.old_1" in capsys.readouterr().out
    assert product_of(plan, "phase_1")["step"] == 3
    assert State.read(plan.output_dir).stages.keys() == {"vocabulary", "data", "phase_1"}
    # The same command, as a scheduler gives it, goes on with what it had begun anew.
    rest = ["train", "train", "evaluate", "export"]
    assert gone(values, restart_from="phase_1") == (rest, 0)
    told = capsys.readouterr().out
    assert "phase_1: going on" in told and "phase_1.old_2" not in told
    assert product_of(plan, "phase_2") == before
    assert State.read(plan.output_dir).restarted is None


def test_a_stage_that_fails_ends_the_road(road, values, capsys):
    class Failing(Here):
        def run(self, arguments, is_enough=lambda: False):
            return 3

    plan = {**values, "evaluation": {"fill_mask": 4}}
    assert pretrain(Plan(plan), ["train"], runner=Failing()) == 3
    assert "evaluation: ended with exit code 3" in capsys.readouterr().out


def test_a_task_that_is_not_there(values, tmp_path):
    score = {"task": "tagging", "train_file": str(tmp_path / "x.jsonl"), "test_file": "hf:a/b"}
    with pytest.raises(DataError, match=r"train_file .*x\.jsonl is not there"):
        gone({**values, "output_dir": str(tmp_path / "new"), "score": score})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_others_is_left_alone(values, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"found files but no pretrain\.json"):
        gone({**values, "output_dir": str(tmp_path)})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_signal_reaches_the_command(monkeypatch):
    monkeypatch.setattr(process, "_CALL", "import time; print(1, flush=True); time.sleep(60)")
    runner, start = Runner(), time.monotonic()
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    with runner.listening():
        timer.start()
        assert runner.run(["anything"]) == STOPPED_ON_REQUEST
        assert runner.is_asked and runner.run(["another"]) == STOPPED_ON_REQUEST
    assert time.monotonic() - start < 30


def test_a_command_is_stopped_when_it_is_enough(monkeypatch):
    monkeypatch.setattr(process, "_CALL", "import time; time.sleep(60)")
    runner = Runner()
    assert runner.run(["anything"], is_enough=lambda: True) == 128 + signal.SIGTERM
    assert not runner.is_asked


def test_the_exit_code_is_that_of_the_command(capfd):
    assert Runner().run(["no-such-command"]) == 2
    assert 'unknown command "no-such-command"' in capfd.readouterr().err
