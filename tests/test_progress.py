"""Progress: a bar on a terminal, lines elsewhere."""

import sys

from ds_bert import progress as module
from ds_bert.progress import Progress


def test_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("tokens", 0.5) as progress:
        progress.update(0.75, B=5_000_000, tokens=1_000_000)
        progress.tell("loss 2.5")
        progress.update(1.0, B=5_000_000, tokens=1_000_000)
    text = capsys.readouterr().err
    assert "tokens:  50%" in text
    assert "MB/s" in text.replace("G", "M")
    assert "tokens/s" in text.split("tokens:")[-1]
    assert "100%" in text
    assert "left, loss 2.5, " in text


def test_lines_elsewhere(monkeypatch, capsys):
    now = iter([0.0, 10.0, 30.0, 30.0, 30.0, 31.0, 31.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with Progress("tokens", 0.25) as progress:
        progress.update(0.3, B=100_000_000)
        progress.update(0.5, B=200_000_000)
        progress.update(0.6, B=1)
    assert capsys.readouterr().err == "tokens: 50%, 10.0MB/s, 01:00 left\n"


def test_no_lines_where_something_else_tells(monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_SECONDS", 0)
    for lines in (True, False):
        with Progress("training", 0.5, lines=lines) as progress:
            progress.update(0.6, steps=1)
        assert bool(capsys.readouterr().err) == lines
