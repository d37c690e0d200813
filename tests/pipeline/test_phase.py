"""A phase by the hours: what is timed, what is written, and what happens when time is over."""

import json
import time

import pytest

from ds_bert.costs.hours import Speed
from ds_bert.errors import STOPPED_ON_REQUEST, ConfigurationError
from ds_bert.files import as_json
from ds_bert.pipeline import phase
from ds_bert.pipeline.phase import Training, pace
from ds_bert.pipeline.plan import Plan
from ds_bert.pipeline.process import check_launch
from ds_bert.pipeline.state import Record, State

WORK = {
    **dict(max_steps=1, warmup_steps=0, train_batch_size=32, flops=1e9, tokens=120.0),
    **dict(max_seq_length=128, num_rows=10_000, eval_sequences=300, eval_interval=0),
    **dict(save_interval=0, save_seconds=0.5),
}
ADAM = {"type": "AdamW", "params": {"lr": 0.001}}
PLAN = {
    "input_file": ["a.txt"],
    "hours": 1.0,
    "phase_1": {"train_batch_size": 32, "optimizer": ADAM},
    "phase_2": {"train_batch_size": 8, "optimizer": ADAM},
}


class Machine:
    """Answers for `ds-bert train`: a probe writes its cost, a run ends with a given code."""

    def __init__(self, *codes):
        self.codes, self.is_asked, self.called = list(codes), False, []

    def run(self, arguments, is_enough=lambda: False):
        self.called.append(list(arguments))
        if "--cost_file" in arguments:
            cost = {"work": WORK, "speed": Speed(1e10, "of a test")._asdict()}
            with open(arguments[arguments.index("--cost_file") + 1], "w") as file:
                file.write(as_json(cost))
            return 0
        return self.codes.pop(0)


def training(folder, machine, used=100.0, **facts):
    """The first phase of a plan, in a folder where other stages took so many seconds."""
    plan = Plan({**PLAN, "output_dir": str(folder)})
    stages = {"data": Record({}, {}, "made", used), "phase_1": Record({}, {}, facts=facts)}
    return Training(plan, State(folder, stages), "phase_1", ["train"], machine)


def recipe_in(folder):
    return json.loads((folder / "phase_1.json").read_text())["ds_bert"]


def test_steps_follow_from_the_probe_and_the_hours(tmp_path):
    machine = Machine(0)
    one = training(tmp_path, machine)
    assert one.run() == 0
    probe, run = machine.called
    assert "--dry_run" in probe and probe[probe.index("--probe_steps") + 1] == "20"
    facts = one.state.stages["phase_1"].facts
    later = 0.1 * 4 / (0.9 + 0.1 * 4)  # of the second phase
    assert facts["limit"] == pytest.approx((3600 - 100 - 4 * 30) * (1 - later), rel=0.02)
    assert 0.85 * facts["limit"] < facts["max_steps"] * 3.2 < 0.93 * facts["limit"]
    assert float(run[run.index("--max_time") + 1]) == pytest.approx(facts["limit"] / 60, abs=0.02)
    assert recipe_in(tmp_path)["max_steps"] == facts["max_steps"]
    assert not list(tmp_path.glob("*cost*"))
    assert "init_from" not in recipe_in(tmp_path)


def test_a_run_that_goes_on_is_not_timed_again(tmp_path):
    machine = Machine(0)
    assert training(tmp_path, machine, max_steps=70, limit=600.0, trained=240.0).run() == 0
    (run,) = machine.called
    assert run[run.index("--max_time") + 1] == "6.00"
    assert recipe_in(tmp_path)["max_steps"] == 70


def test_hours_that_are_too_few(tmp_path):
    with pytest.raises(ConfigurationError, match="expected time for more than one step"):
        training(tmp_path, Machine(0), used=3590.0).run()


@pytest.mark.parametrize(("step", "steps"), [(40, 42), (69, 70)])
def test_when_time_is_over_the_rate_still_decays(tmp_path, monkeypatch, capsys, step, steps):
    monkeypatch.setattr(phase, "product_of", lambda *_: {"step": step})
    machine = Machine(STOPPED_ON_REQUEST, 0)
    assert training(tmp_path, machine, max_steps=70, limit=100.0, trained=90.0).run() == 0
    assert len(machine.called) == 2 and "--max_time" not in machine.called[1]
    assert recipe_in(tmp_path)["max_steps"] == steps
    assert ("its time is over at step 40: 42 steps" in capsys.readouterr().out) == (step == 40)


@pytest.mark.parametrize(("seconds", "runs"), [(48.0, 2), (12.0, 1)])
def test_time_is_over_sooner_where_steps_are_slow(tmp_path, monkeypatch, seconds, runs):
    """A process stops by its time while two more steps and a save still fit; 170 s are left."""
    monkeypatch.setattr(phase, "product_of", lambda *_: {"step": 40})
    (tmp_path / "phase_1").mkdir()

    class Slow(Machine):
        def run(self, arguments, is_enough=lambda: False):
            now = time.time()
            rows = [{"kind": "train", "step": 1, "time": now, "started": now}]
            rows += [rows[0] | {"step": n, "time": now + n * seconds} for n in (38, 40)]
            log = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / "phase_1/metrics.jsonl").write_text(log)
            return super().run(arguments)

    machine = Slow(STOPPED_ON_REQUEST, 0)
    training(tmp_path, machine, max_steps=70, limit=1000.0, trained=830.0).run()
    assert len(machine.called) == runs


def test_a_stop_before_that_is_one_that_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(phase, "product_of", lambda *_: {"step": 40})
    machine = Machine(STOPPED_ON_REQUEST)
    one = training(tmp_path, machine, max_steps=70, limit=100.0, trained=20.0)
    assert one.run() == STOPPED_ON_REQUEST


def test_who_asks_near_the_end_is_obeyed(tmp_path, monkeypatch):
    monkeypatch.setattr(phase, "product_of", lambda *_: {"step": 65})
    machine = Machine(STOPPED_ON_REQUEST)
    machine.is_asked = True
    one = training(tmp_path, machine, max_steps=70, limit=100.0, trained=95.0)
    assert one.run() == STOPPED_ON_REQUEST
    assert one.state.stages["phase_1"].facts["max_steps"] == 70


def test_a_pace_that_does_not_fit_changes_the_steps(tmp_path, capsys):
    """Twice as slow as timed, seen after a fifth of the time."""
    run = tmp_path / "phase_1"
    run.mkdir()

    class Looking(Machine):
        def run(self, arguments, is_enough=lambda: False):
            now = time.time()
            rows = [
                {"kind": "train", "step": n, "time": now + 4 * n, "started": now} for n in (1, 9)
            ]
            (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            self.looked = [is_enough(), is_enough()] if not self.called else [is_enough()]
            return super().run(arguments)

    machine = Looking(STOPPED_ON_REQUEST, 0)
    facts = {"max_steps": 500, "limit": 1000.0, "trained": 210.0, "restart": 10.0}
    one = training(tmp_path, machine, **facts)
    assert one.run() == 0
    assert len(machine.called) == 2 and machine.looked == [False]
    steps = one.state.stages["phase_1"].facts["max_steps"]
    assert steps == pytest.approx(9 + (0.93 * 790 - 10) / 4, abs=2)
    assert recipe_in(tmp_path)["max_steps"] == steps
    assert "a step takes 4 s" in capsys.readouterr().out


def test_time_of_a_process_that_was_killed_is_counted(tmp_path):
    """Its log has 400 s, of which 240 were recorded when an earlier one ended."""
    (tmp_path / "phase_1").mkdir()
    rows = [{"kind": "train", "step": n, "time": 1000.0 + n, "started": 1000.0} for n in (1, 400)]
    log = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "phase_1/metrics.jsonl").write_text(log)
    machine = Machine(0)
    one = training(tmp_path, machine, max_steps=700, limit=600.0, trained=240.0)
    assert one.run() == 0
    assert machine.called[0][-1] == "3.33"
    assert one.state.stages["phase_1"].seconds == 160


def test_the_pace_of_no_log(tmp_path):
    assert pace(tmp_path, 0.0) is None


@pytest.mark.parametrize(
    ("hostfile", "num_gpus", "expected"),
    [
        (None, None, ["train"]),
        (None, 1, ["train"]),
        (None, 4, ["launch", "--num_accelerators", "4", "--module", "ds_bert.train"]),
        ("hosts", None, ["launch", "--hostfile", "hosts", "--module", "ds_bert.train"]),
    ],
)
def test_who_trains(monkeypatch, hostfile, num_gpus, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert check_launch(hostfile, num_gpus) == expected


def test_no_gpu_is_no_number():
    with pytest.raises(ConfigurationError, match="--num_gpus: found 0"):
        check_launch(None, 0)
