"""Charts: shapes where their values are, colours and fonts of the page, names as text."""

import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from ds_bert.reports import charts
from ds_bert.reports.charts import Bar, Bars, Line, Lines, draw, thinned
from ds_bert.reports.svg import PALETTE, as_file

pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
NUMBER = r"-?\d+(?:\.\d+)?"


def shapes(drawing, paint, color):
    """Points of all paths that are filled or stroked with a variable."""
    found = []
    for path in ElementTree.fromstring(drawing).iter():
        if path.tag.endswith("path") and f"{paint}: var(--{color})" in path.get("style", ""):
            numbers = [float(number) for number in re.findall(NUMBER, path.get("d"))]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def span(shape):
    return max(x for x, _ in shape) - min(x for x, _ in shape)


def test_bars_are_as_long_as_their_values():
    drawing = draw(Bars([Bar("a", 1.0, "1 ms"), Bar("b", 4.0, "4 ms", 2)]), "times")
    (short,), (long,) = shapes(drawing, "fill", "line-1"), shapes(drawing, "fill", "line-2")
    assert span(long) == pytest.approx(4 * span(short)) and span(long) > 100
    assert min(y for _, y in long) > max(y for _, y in short)  # the first one is above


def test_a_whisker_ends_at_its_ends():
    drawing = draw(Bars([Bar("a", 2.0, "2 ms", 1, (1.0, 4.0))], longest=4.0), "times")
    (bar,) = shapes(drawing, "fill", "line-1")
    left, unit = min(x for x, _ in bar), span(bar) / 2
    whisker = max(shapes(drawing, "stroke", "text"), key=span)
    assert [x for x, _ in whisker] == pytest.approx([left + unit, left + 4 * unit], abs=0.01)


def test_a_band_lies_between_its_ends():
    band = [(3.0, 5.0), (1.0, 2.0)]
    lines = [Line("a", [0, 20], [4.0, 1.5], band=band), Line("b", [0, 20], [5.0, 1.0], 2)]
    drawing = draw(Lines(lines), "score")
    path, *_ = re.findall(r'<defs>\s*<path id="[^"]*" d="([^"]*)"', drawing)
    numbers = [float(number) for number in re.findall(NUMBER, path)]
    use = rf'<use [^>]*y="({NUMBER})" style="fill: var\(--line-1\); fill-opacity'
    (shift,) = re.findall(use, drawing)
    filled = {(x, y + float(shift)) for x, y in zip(numbers[::2], numbers[1::2], strict=True)}
    ((left, high), (right, low)) = max(shapes(drawing, "stroke", "line-2"), key=span)
    unit = (low - high) / 4  # downwards, from 5 to 1
    corners = [(left, high), (left, high + 2 * unit), (right, low - unit), (right, low)]
    assert sorted(filled) == [pytest.approx(corner, abs=0.01) for corner in corners]


def test_lines_lie_where_their_values_are():
    panel = Lines(
        [Line("a", [0, 10, 20], [5.0, 2.0, 1.0]), Line("b", [0, 20], [5.0, 1.0], 2)],
        levels=[("level", 3.0)],
        marks=[("mark", 10)],
    )
    drawing = draw(panel, "loss")
    a, b = (max(shapes(drawing, "stroke", f"line-{n}"), key=span) for n in (1, 2))
    assert a[0] == b[0] and a[-1] == b[-1]
    assert a[1][0] == pytest.approx((b[0][0] + b[1][0]) / 2)
    unit = (b[1][1] - b[0][1]) / 4  # downwards
    assert a[1][1] - a[0][1] == pytest.approx(3 * unit)
    levels = [line for line in shapes(drawing, "stroke", "text") if line[0][1] == line[1][1]]
    assert max(levels, key=lambda line: line[1][0])[0][1] == pytest.approx(b[0][1] + 2 * unit)
    marks = [line for line in shapes(drawing, "stroke", "line-5") if line[0][0] == line[1][0]]
    assert marks[0][0][0] == pytest.approx(a[1][0])


def test_ticks_are_plain_numbers():
    drawing = draw(Lines([Line("a", [0, 20_000], [0.1, 100.0])], is_log=True), "x")
    ticks = re.findall(r">(-?[\d.,e+kM]+)</text>", drawing)
    assert {"0", "5,000", "20k", "0.1", "1", "10", "100"} <= set(ticks) and "10^" not in drawing


def test_gaps_stay_gaps():
    drawing = draw(Lines([Line("a", [0, 1, 2, 3, 4], [1, 2, None, math.inf, 5])]), "x")
    (path,) = re.findall(r'd="(M[^"]*)"[^>]*stroke: var\(--line-1\)', drawing)
    assert path.count("L") == 1


def test_a_drawing_has_the_colours_and_the_font_of_its_page():
    panels = [Lines([Line("a", [0, 1], [1, 2])], title="t"), Bars([Bar("b", 1, "1")])]
    drawing = draw(panels, "x")
    colors = re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)
    assert colors and all(color == "none" or color.startswith("var(--") for color in colors)
    names = set(re.findall(r"var(\(--[\w-]+\))", drawing))
    assert all(name.strip("()") + ":" in PALETTE for name in names)
    assert "font-family" not in drawing and "DejaVu" not in drawing and "<style" not in drawing
    assert draw(panels, "x") == drawing, "the same chart, the same bytes"


def test_drawings_of_a_page_have_no_name_in_common():
    panel = Lines([Line("a", [0, 1], [1, 2])])
    ids = [set(re.findall(r' id="([^"]*)"', draw(panel, name))) for name in ("x", "y")]
    assert ids[0] and not ids[0] & ids[1]
    used = re.findall(r"url\(#([^)]*)\)", draw(panel, "x"))
    assert used and set(used) <= ids[0]


def test_names_are_text():
    bad = "<script>alert('&\"')</script> $x_1$ \\n"
    for panel in (Lines([Line(bad, [0, 1], [1, 2])] * 2, bad, bad), Bars([Bar(bad, 1, bad)], bad)):
        picture = as_file(draw(panel, bad), bad, bad)
        assert "<script" not in picture
        root = ElementTree.fromstring(picture)
        texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert sum(bad in text for text in texts) >= 3


def test_a_file_has_its_colours_in_it():
    picture = as_file(draw(Bars([Bar("a", 1, "1")]), "x"), "Title", "note")
    root = ElementTree.fromstring(picture)
    assert root.get("aria-label") == "Title" and "prefers-color-scheme: dark" in picture
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:2] == ["Title", "note"]


def test_long_lines_are_thinned():
    x, y = thinned(range(1000), [float(n) for n in range(999)] + [None])
    assert len(x) == len(y) == 334 and (x[0], x[-1]) == (2, 999)
    assert (y[0], y[1]) == (1.0, 4.0) and math.isnan(y[-1])
    assert thinned([1, 2], [None, 3.0])[1][1] == 3.0


def test_many_values_of_nothing():
    assert "<svg" in draw(Lines([Line("a", [1], [2.0])]), "one point")
    assert "<svg" in draw(Bars([Bar("a", 0, "0")]), "no length") and charts.is_available()


def test_they_cost_nothing_before_there_is_a_page():
    code = """
import sys, ds_bert.preprocessing.figures, ds_bert.run_report.page, ds_bert.run_report.background
assert not {"matplotlib", "jinja2"} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
