"""Draw the bars or lines of all result files as SVG, each beside its file.

    python benchmarks/plot.py [FOLDER]

A result file asks for a chart by a field `bars`: its `title`, the name of the rows' `value` and
that value's `unit`. Rows that have the value are drawn, those of one `case` together. An `impl`
whose name begins with "ours" stands out; a row's `VALUE_p20` and `VALUE_p80` become a whisker.
With a field `x`, values are lists, drawn as lines over the list of that name.
"""

import argparse
import json
from itertools import groupby
from pathlib import Path
from typing import Any

from ds_bert.reports.charts import BROAD, INSTALL, Bar, Bars, Line, Lines, Panel, draw, is_available
from ds_bert.reports.svg import as_file

WIDTH, PANEL = 860, 260  # of the chart, and height of a panel of lines


def machine_line(machine: dict[str, Any]) -> str:
    parts = [
        machine.get("gpu") or machine["processor"],
        f"torch {machine['versions']['torch']}",
        *(f"{name} {machine[name]}" for name in ("cuda", "driver") if machine.get(name)),
        f"commit {machine['commit'] or 'unknown'}",
    ]
    return " · ".join(parts)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def is_ours(row: dict[str, Any]) -> bool:
    return row["impl"].startswith("ours")


def bar(row: dict[str, Any], chart: dict[str, str]) -> Bar:
    value = chart["value"]
    figure = f"{number(row[value])} {chart['unit']}"
    if "of_bound" in row:
        figure += f"  ({row['of_bound']:.2f} × bound)"
    ends = (row[f"{value}_p20"], row[f"{value}_p80"]) if f"{value}_p20" in row else None
    return Bar(row["impl"], row[value], figure, 1 if is_ours(row) else 0, ends)


def lines(rows: list[dict[str, Any]], chart: dict[str, str]) -> list[Line]:
    """Ours thin and above the others, which are broad."""
    return [
        Line(row["impl"], row[chart["x"]], row[chart["value"]], color, _width(row))
        for color, row in enumerate(sorted(rows, key=is_ours), 1)
    ]


def _width(row: dict[str, Any]) -> float:
    return 1.4 if is_ours(row) else BROAD + 0.5


def panels(rows: list[dict[str, Any]], chart: dict[str, str]) -> list[Panel]:
    found: list[Panel] = []
    longest = 0.0 if "x" in chart else max(row[chart["value"]] for row in rows)
    for case, group in groupby(rows, key=lambda row: row["case"]):
        members = list(group)
        if "x" in chart:
            found.append(Lines(lines(members, chart), chart["x"], chart["unit"], title=case))
        else:
            bars = [bar(row, chart) for row in members]
            found.append(Bars(bars, case, label_share=0.27, figure_share=0.24, longest=longest))
    return found


def plot(content: dict[str, Any]) -> str | None:
    """The chart of a result file as SVG; None if it has nothing to draw."""
    chart = content.get("bars")
    rows = [row for row in content["rows"] if chart and chart["value"] in row]
    if not chart or not rows:
        return None
    title = f"{chart['title']} ({chart['unit']})"
    drawing = draw(panels(rows, chart), title, WIDTH, PANEL)
    return as_file(drawing, title, machine_line(content["machine"]))


def draw_file(path: Path) -> None:
    """Write the chart beside a result file, if that asks for one."""
    content = json.loads(path.read_text())
    if "bars" in content and not is_available():
        print(f"no chart of {path}: {INSTALL}")
        return
    picture = plot(content)
    if picture:
        path.with_suffix(".svg").write_text(picture)
        print(path.with_suffix(".svg"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).resolve().parent / "results"
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    for path in sorted(parser.parse_args().folder.glob("*.json")):
        draw_file(path)


if __name__ == "__main__":
    main()
