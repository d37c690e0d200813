"""Scores of checkpoints in the report of a run."""

import json

import pytest
from run_report_util import phase, write_run

from ds_bert.run_report.history import read_phases
from ds_bert.run_report.page import write_report
from ds_bert.run_report.scores import score_charts

TASK = {
    **{"task": "tagging", "train_file": "a/train.jsonl", "test_file": "a/test.jsonl"},
    **{"text_column": "text", "text_pair_column": "text_pair", "label_column": "label"},
    **{"seeds": 3, "epochs": 2, "lr": 1e-3, "batch_size": 32, "max_seq_length": 128},
    **{"num_train": 1000, "num_test": 500, "baseline": {"label": "O", "accuracy": 0.9}},
}


def score(step, accuracy, is_trained=True, **other):
    ends = [accuracy - 0.01, accuracy + 0.02]
    figures = {"accuracy": accuracy, "accuracy_interval": ends, "accuracy_deviation": None}
    return {"step": step, "trained": is_trained, **TASK, **figures, **other}


def write_scores(run, rows):
    (run / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_curve_with_what_it_is_to_be_above(tmp_path):
    run = write_run(tmp_path / "run")
    rows = [score(0, 0.91, is_trained=False), score(400, 0.95), score(200, 0.93), score(400, 0.96)]
    write_scores(run, [*rows, score(200, 0.8, seeds=1)])
    chart, other = score_charts(read_phases(run))
    assert chart.title == "Accuracy of tagging, test.jsonl"
    assert other.title == "Accuracy of tagging, test.jsonl (2)", "of other settings"
    (line,) = chart.panel.lines
    assert (line.x, line.y) == ([200, 400], [0.93, 0.96]), "the last row of a step counts"
    assert line.band == [pytest.approx((0.92, 0.95)), pytest.approx((0.95, 0.98))]
    assert chart.panel.levels == [("untrained", 0.91), ("always O", 0.9)]
    assert other.panel.levels == [("always O", 0.9)]
    assert chart.rows[0] == ("200", "93.00%", "92.00%", "95.00%", "")
    assert "3 fine-tunings of 2 epochs at 0.001" in chart.text and "500 here" in chart.text


def test_over_two_phases(tmp_path):
    """Steps go on; those that a run did after the next phase had begun from it are left out."""
    one = write_run(tmp_path / "one")
    two = write_run(tmp_path / "two", None, init_from=str(one / "checkpoints/step_500/hf"))
    write_scores(one, [score(500, 0.93), score(1000, 0.94)])
    write_scores(two, [score(100, 0.95)])
    (chart,) = score_charts(read_phases(two))
    assert chart.panel.lines[0].x == [500, 600]
    assert ("phase 2 begins", 500) in chart.panel.marks


def test_none_and_what_cannot_be_read(tmp_path):
    assert score_charts([phase()]) == []
    run = write_run(tmp_path / "run")
    write_scores(run, [score(0, 0.91, is_trained=False), {"step": 3}, {"step": 4, "trained": True}])
    assert score_charts(read_phases(run)) == []


def test_on_the_page(tmp_path):
    run = write_run(tmp_path / "run")
    write_scores(run, [score(200, 0.93), score(400, 0.95)])
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<h3>Accuracy of tagging, test.jsonl</h3>" in page
    assert "<td>400</td><td>95.00%</td><td>94.00%</td><td>97.00%</td>" in page
