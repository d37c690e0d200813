"""The report of a run in progress: made beside it, and of no consequence for it."""

import json
import os
import time

import pytest
from data_util import exit_code
from run_report_util import healthy_rows, write_run
from training_util import make_data, write_recipe

from ds_bert import launcher
from ds_bert.commands.train import main
from ds_bert.run_report import background
from ds_bert.run_report.background import ReportWriter


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "data", golden)


@pytest.mark.usefixtures("one_process_group")
def test_a_run_leaves_its_report(tmp_path, data, capfd):
    recipe = write_recipe(tmp_path, data, section={"report_seconds": 1000.0})
    assert exit_code(main, "--ds_config", recipe) == 0
    page = (tmp_path / "run/report.html").read_text()
    assert "4 of 4 (100%)" in page and "unigram entropy" in page
    assert "Trust ratios" in page and "tests" not in page
    told = capfd.readouterr()
    assert "warning: report" not in told.err
    assert told.out.endswith(f"report: {tmp_path / 'run/report.html'}\n")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    ratios = rows[-2]["trust_ratios"]
    assert list(ratios) == ["embeddings", "layer 0", "layer 1", "heads"]
    assert all(0 < ratio < 10 for ratio in ratios.values())
    assert rows[-1]["validation_seconds"] > 0 and rows[-1]["started"] <= rows[-1]["time"]
    assert rows[-2]["loss_scale"] is None


@pytest.fixture
def started(monkeypatch):
    """Counts processes; instead of a report they sleep."""
    processes = []

    def start(command, **options):
        assert not {*launcher.VARIABLES} & {*options["env"]}, "it would be taken for a rank"
        processes.append(popen(["sleep", "60"], **options))
        return processes[-1]

    popen = background.subprocess.Popen
    monkeypatch.setattr(background.subprocess, "Popen", start)
    monkeypatch.setenv("RANK", "0")
    yield processes
    assert all(process.poll() is not None for process in processes), "none is left behind"


def test_one_at_a_time_and_not_too_often(tmp_path, started):
    writer = ReportWriter(tmp_path, 0.2)
    for expected in (0, 0):
        writer.update()
        assert len(started) == expected
    time.sleep(0.25)
    writer.update()
    writer.update()
    time.sleep(0.25)
    writer.update()
    assert len(started) == 1, "the first one is still being made"
    before = time.monotonic()
    assert writer.close(is_over=False) is None
    assert time.monotonic() - before < 1 and len(started) == 1


def test_the_last_one_is_waited_for_but_not_for_ever(tmp_path, started, monkeypatch):
    monkeypatch.setattr(background, "_LIMIT_SECONDS", 0.3)
    before = time.monotonic()
    ReportWriter(tmp_path, 1000).close(is_over=True)
    assert len(started) == 1 and time.monotonic() - before < 5


def test_no_process_no_report(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(background.subprocess, "Popen", refuse)
    ReportWriter(tmp_path, 1000).close(is_over=True)
    assert "warning: no report.html" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["page", "disk", "log"])
def test_whatever_goes_wrong_with_a_page(tmp_path, monkeypatch, capsys, fault):
    monkeypatch.setattr(os, "nice", lambda _: None)
    run = write_run(tmp_path / "run", healthy_rows(50))
    if fault == "page":
        monkeypatch.setattr("ds_bert.run_report.page.render", lambda *_, **__: 1 / 0)
    elif fault == "disk":
        (run / "report.html").mkdir()
    else:
        (run / "metrics.jsonl").unlink()
    background.write(run)
    assert "training goes on" in capsys.readouterr().err
