"""The page of a run: whole, alone, escaped, and the same with and without what is optional."""

import json
import re
from html.parser import HTMLParser

import pytest
from data_util import exit_code
from run_report_util import changed, healthy_rows, record, train_row, write_run
from script_loader import load_script

from ds_bert.reports import charts
from ds_bert.run_report.page import write_report

VOID = {"meta", "br", "link", "img"}


class Outline(HTMLParser):
    """Headings in order, tags that were not closed, and identifiers."""

    def __init__(self, page):
        super().__init__()
        self.open, self.headings, self.ids, self.tags = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def has_charts():
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")


@pytest.fixture
def no_charts(monkeypatch):
    monkeypatch.setattr(charts, "is_available", lambda: False)
    monkeypatch.setattr("ds_bert.run_report.page.is_available", lambda: False)


def page_of(folder):
    write_report(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("has_charts")
def test_a_page_is_whole_and_loads_nothing(tmp_path):
    page = page_of(write_run(tmp_path / "run"))
    assert not re.search(r"<script|<link|<img|<iframe|@import|src=|https?:", page)
    assert not re.search(r"url\((?!#)", page) and "#0a0b" not in page
    outline = Outline(page)
    assert outline.headings[0] == 1 and outline.headings.count(1) == 1
    steps = zip(outline.headings, outline.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)
    assert len(outline.ids) == len(set(outline.ids))
    drawings = [attributes for tag, attributes in outline.tags if tag == "svg"]
    assert len(drawings) == page.count("<figure>") == 10
    assert all(one["role"] == "img" and one["aria-label"] for one in drawings)
    assert page.count("<caption>") == page.count("<table>") == 11
    assert "prefers-color-scheme: dark" in page and len(page) < 250_000
    for name in ("Trust ratios", "Gradient norm", "Learning rate", "Time beside computing"):
        assert f"<h3>{name}</h3>" in page
    assert "Loss scale" not in page and "Model FLOPs" not in page  # where there are none


@pytest.mark.usefixtures("has_charts")
def test_what_a_gpu_adds(tmp_path):
    other = {"mfu": 0.4, "loss_scale": 1024.0, "skipped_steps": 3}
    page = page_of(write_run(tmp_path / "run", changed(healthy_rows(), lambda row: other)))
    for name in ("Loss scale", "Model FLOPs utilisation", "Skipped steps"):
        assert f"<h3>{name}</h3>" in page


@pytest.mark.usefixtures("no_charts")
def test_names_are_text(tmp_path):
    bad = "<script>alert('&')</script>"
    rows = [*healthy_rows(50), {"kind": "validation", "step": 50, f"mlm_loss_{bad}": 5.0}]
    page = page_of(write_run(tmp_path / "a<b>", rows, description=bad))
    assert "<script" not in page and "Run a&lt;b&gt;" in page
    Outline(page)


@pytest.mark.usefixtures("no_charts")
def test_without_matplotlib_there_are_tables(tmp_path):
    page = page_of(write_run(tmp_path / "run"))
    assert "<svg" not in page and charts.INSTALL.replace('"', "&#34;") in page
    assert page.count("<details open>") == 10 and "5.2" in page
    Outline(page)


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize("rows", [[], [{"kind": "train", "step": 10}], [train_row(10)]])
def test_a_run_that_has_just_begun(tmp_path, rows):
    Outline(page_of(write_run(tmp_path / "run", rows)))


@pytest.mark.usefixtures("has_charts")
def test_two_phases_are_one_page(tmp_path):
    write_run(tmp_path / "one")
    rows = [*healthy_rows(190), train_row(200, started=1100.0)]
    second = write_run(tmp_path / "two", rows, init_from=str(tmp_path / "one"))
    page = page_of(second)
    assert "phase 2 begins" in page and "went on" in page
    assert "<td>one</td><td>1,000</td>" in page and "<td>two</td><td>200</td>" in page
    assert "1,200" in page  # steps of both
    assert "steps of phase 1" in page and "steps of phase 2" in page


@pytest.mark.usefixtures("no_charts")
def test_the_same_for_programs(tmp_path):
    rows = changed(healthy_rows(), lambda row: {"data_wait_share": 0.6})
    run = write_run(tmp_path / "run", rows)
    findings = write_report(run)
    stored = json.loads((run / "report.json").read_text())
    assert [one["title"] for one in stored["findings"]] == [one.title for one in findings]
    assert stored["findings"][0]["severity"] == "problem" and stored["step"] == 1000


@pytest.mark.usefixtures("no_charts")
def test_what_was_counted_is_kept(tmp_path):
    """A run's folder alone, somewhere else: its data are not there."""
    run = write_run(tmp_path / "run")
    write_report(run)
    stored = json.loads((run / "report.json").read_text())
    (key,) = stored["baselines"]
    stored["baselines"][key] |= {"unigram": 6.5, "no_longer_known": 1}
    (run / "report.json").write_text(json.dumps(stored))
    assert "unigram entropy" in page_of(run)
    (run / "report.json").write_text('{"baselines": []}')
    assert "could not be read" in page_of(run)


@pytest.mark.usefixtures("no_charts")
def test_the_command(tmp_path, capsys):
    report = load_script("report").main
    run = write_run(tmp_path / "run")
    assert exit_code(report, run) == 0
    told = capsys.readouterr().out
    assert told == f"nothing is wrong; report: {run / 'report.html'}\n"
    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    assert exit_code(report, run) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert exit_code(report, tmp_path) == 3
    assert record()["device"] == "cpu"
