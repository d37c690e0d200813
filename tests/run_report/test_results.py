"""What came after training, as tables of a page."""

import json

from ds_bert.run_report.results import read_results, scores

FIGURES = {
    "accuracy": 0.9,
    "accuracy_interval": [0.85, 0.95],
    "macro_f1": 0.5,
    "macro_f1_interval": [None, None],
}


def test_a_score_has_a_row_for_each_model_and_the_baseline():
    other = {"checkpoint": "a", "trained": False, **FIGURES}
    baseline = {"label": "O", "accuracy": 0.7, "macro_f1": 0.0}
    record = {"checkpoint": "a", **FIGURES, "compare": [other], "baseline": baseline}
    assert list(scores(record)) == [
        ("a", "90.00% [85.00%, 95.00%]", "50.00% "),
        ("a, untrained", "90.00% [85.00%, 95.00%]", "50.00% "),
        ("always O", "70.00%", "0.00%"),
    ]


def test_what_is_not_there_has_no_table(tmp_path):
    assert read_results(tmp_path / "none.json", tmp_path / "neither.json") == []
    metrics = tmp_path / "metrics.json"
    metrics.write_text("[1]")
    assert read_results(metrics, metrics) == []
    figures = {"mlm_loss": 5.25, "intervals": {"mlm_loss": [5.0, 5.5]}, "num_sequences": 1234}
    metrics.write_text(json.dumps(figures))
    (table,) = read_results(metrics, tmp_path)
    assert table.caption == "On 1,234 held-out sequences"
    assert table.rows == [("mlm_loss", "5.25", "[5, 5.5]")]
