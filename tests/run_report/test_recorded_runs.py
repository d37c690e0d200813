"""Real runs, healthy and sick (benchmarks/sick_runs.py): what the diagnosis says of them first."""

import json

import pytest
from data_util import read_json
from run_report_util import BASE, healthy_rows, phase, record

from ds_bert.run_report import recorded
from ds_bert.run_report.baselines import Baselines
from ds_bert.run_report.diagnosis import diagnose
from ds_bert.run_report.history import Phase

SICK = [
    *("wrong_vocabulary", "rate_too_high", "rate_too_low", "shuffled_pairs", "starving"),
    "repeated_corpus",
]


@pytest.fixture(scope="module")
def runs(golden):
    return read_json(golden / "runs/runs.json.gz")


def findings(runs, name, share=1.0):
    """What is told of a run, or of its beginning."""
    run = runs[name]
    last = share * run["rows"][-1]["step"]
    rows = [row for row in run["rows"] if row["step"] <= last]
    base = Baselines(**run["baselines"])
    return diagnose(Phase(runs, rows, {"ds_bert": run["ds_bert"]}), base)


@pytest.mark.parametrize("name", SICK)
def test_what_is_wrong_comes_first(runs, name):
    found = findings(runs, name)
    assert runs[name]["expected"] and found[0].title == runs[name]["expected"]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_a_healthy_run_is_left_alone(runs, share):
    assert findings(runs, "healthy", share) == []


def test_a_recorded_curve_is_moved_and_stretched(monkeypatch):
    run = {"num_hidden_layers": 2, "hidden_size": 64, "batch_size": 64, "unigram": 7.0}
    run |= {"step": [100, 200, 400, 800], "mlm_loss": [8.0, 7.0, 6.5, 6.0]}
    monkeypatch.setattr(recorded, "recorded_runs", lambda: [run])
    model = {"model_config": {"num_hidden_layers": 2, "hidden_size": 128}}
    own = Phase("run", healthy_rows(), record() | model)
    (line,) = recorded.recorded_beside(own, BASE)  # batches of 32, 1,000 steps, entropy 6.5
    assert (line.x, line.y) == ([200, 400, 800], [7.5, 6.5, 6.0])
    large = {"model_config": {"num_hidden_layers": 12, "hidden_size": 768}}
    assert recorded.recorded_beside(Phase("run", [], record() | large), BASE) == []
    assert recorded.recorded_beside(Phase("run", [], record(init_from="x") | model), BASE) == []
    assert (
        recorded.recorded_beside(own, Baselines()) == recorded.recorded_beside(phase(), BASE) == []
    )


def test_our_own_recorded_runs():
    for run in recorded.recorded_runs():
        assert len(run["step"]) == len(run["tokens"]) == len(run["mlm_loss"]) > 20
        assert run["mlm_loss"][-1] < run["unigram"] < run["mlm_loss"][0]
        assert json.dumps(run)
