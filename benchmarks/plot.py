"""Draw the bars or lines of all result files as SVG, each beside its file.

    python benchmarks/plot.py [FOLDER]

A result file asks for a chart by a field `bars`: its `title`, the name of the rows' `value` and
that value's `unit`. Rows that have the value are drawn, those of one `case` together. An `impl`
whose name begins with "ours" stands out; a row's `VALUE_p20` and `VALUE_p80` become a whisker.
With a field `x`, values are lists, drawn as lines over the list of that name.
"""

import argparse
import json
import math
from collections.abc import Callable
from html import escape
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

WIDTH, LABELS, FIGURES = 860, 220, 190  # of the chart, the names and the figures in it
BAR, GAP, HEAD, MARGIN = 20, 7, 34, 24
LENGTH = WIDTH - LABELS - FIGURES - 2 * MARGIN
OURS, OTHERS, INK, PALE = "#2563eb", "#a8b3c4", "#1e293b", "#64748b"
PLOT, LEGEND, TICKS = 230, 210, 5  # height of a panel of lines, width of the names beside it
OUR_LINES = (OURS, "#db2777", "#059669")  # thin and dark, on the broad and pale lines of the others
OTHER_LINES = (OTHERS, "#f2c879", "#b9d8c2", "#d5c1ea")


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


def text(x: float, y: float, content: str, **style: object) -> str:
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(content)}</text>'


def whisker(row: dict[str, Any], value: str, middle: float, scale: float) -> list[str]:
    if f"{value}_p20" not in row:
        return []
    low, high = (MARGIN + LABELS + row[f"{value}_{end}"] * scale for end in ("p20", "p80"))
    path = f"M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"
    return [f'<path d="{path}" stroke="{INK}" stroke-width="1.2" fill="none"/>']


def bar(row: dict[str, Any], bars: dict[str, str], y: float, scale: float) -> list[str]:
    """Name, bar, whisker and figure of a row."""
    value, left, middle = row[bars["value"]], MARGIN + LABELS, y + BAR / 2
    ours = row["impl"].startswith("ours")
    figure = f"{number(value)} {bars['unit']}"
    if "of_bound" in row:
        figure += f"  ({row['of_bound']:.2f} × bound)"
    end = max(value, row.get(f"{bars['value']}_p80", 0)) * scale
    return [
        text(left - 10, middle + 4.5, row["impl"], text_anchor="end"),
        f'<rect x="{left}" y="{y}" width="{max(value * scale, 1):.1f}" height="{BAR}" rx="3" '
        f'fill="{OURS if ours else OTHERS}"/>',
        *whisker(row, bars["value"], middle, scale),
        text(left + end + 8, middle + 4.5, figure, font_weight=600 if ours else 400),
    ]


def line(
    row: dict[str, Any],
    bars: dict[str, str],
    place: Callable,
    label: tuple[float, float],
    color: str,
) -> list[str]:
    """The line of a row and its entry in the legend."""
    points = zip(row[bars["x"]], row[bars["value"]], strict=True)
    path = "M" + "L".join("{:.1f} {:.1f}".format(*place(*point)) for point in points)
    width = 1.6 if row["impl"].startswith("ours") else 4
    style = f'stroke="{color}" stroke-width="{width}" fill="none" stroke-linejoin="round"'
    x, y = label
    return [
        f'<path d="{path}" {style}/>',
        f'<path d="M{x:.1f} {y - 4:.1f}h20" {style}/>',
        text(x + 28, y, row["impl"], font_size=12),
    ]


def ticks(low: float, high: float) -> list[float]:
    """About `TICKS` round numbers between two."""
    raw = (high - low) / TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def panel(rows: list[dict[str, Any]], bars: dict[str, str], top: float) -> list[str]:
    """Lines of one case in axes of their own; ours are drawn last."""
    left, right, bottom = MARGIN + 50, WIDTH - MARGIN - LEGEND, top + PLOT
    steps = [x for row in rows for x in row[bars["x"]]]
    values = [value for row in rows for value in row[bars["value"]]]
    low, high = min(values), max(values)
    high += (high == low) * (abs(high) or 1.0)

    def place(x: float, value: float) -> tuple[float, float]:
        across = (x - min(steps)) / max(max(steps) - min(steps), 1)
        return left + across * (right - left), bottom - (value - low) / (high - low) * PLOT

    parts = [text((left + right) / 2, bottom + 18, bars["x"], text_anchor="middle", fill=PALE)]
    for value in ticks(low, high):
        y = place(min(steps), value)[1]
        parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#e2e8f0"/>')
        parts.append(text(left - 8, y + 4, f"{value:.4g}", text_anchor="end", fill=PALE))
    for x, anchor in ((min(steps), "start"), (max(steps), "end")):
        parts += [text(place(x, low)[0], bottom + 18, str(x), text_anchor=anchor, fill=PALE)]
    colors = {True: cycle(OUR_LINES), False: cycle(OTHER_LINES)}
    for number, row in enumerate(sorted(rows, key=lambda row: row["impl"].startswith("ours"))):
        label = (right + 16, top + 12 + 19 * number)
        parts += line(row, bars, place, label, next(colors[row["impl"].startswith("ours")]))
    return parts


def draw(content: dict[str, Any]) -> str | None:
    """The chart of a result file as SVG; None if it has nothing to draw."""
    bars = content.get("bars")
    rows = [row for row in content["rows"] if bars and bars["value"] in row]
    if not bars or not rows:
        return None
    scale = 0.0 if "x" in bars else LENGTH / max(row[bars["value"]] for row in rows)
    title = f"{bars['title']} ({bars['unit']})"
    parts = [
        text(MARGIN, 38, title, font_size=19, font_weight=700),
        text(MARGIN, 60, machine_line(content["machine"]), fill=PALE, font_size=12),
    ]
    y = 72.0
    for case, members in groupby(rows, key=lambda row: row["case"]):
        y += HEAD
        parts.append(text(MARGIN, y - 8, case, font_weight=700, fill=PALE))
        if "x" in bars:
            parts += panel(list(members), bars, y + 4)
            y += PLOT + HEAD
            continue
        for row in members:
            parts += bar(row, bars, y, scale)
            y += BAR + GAP
    height = y + MARGIN - GAP
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" font-family="system-ui, Helvetica, Arial, '
        f'sans-serif" font-size="13" fill="{INK}" role="img" aria-label="{escape(title)}">'
    )
    background = '<rect width="100%" height="100%" rx="8" fill="#fbfcfe" stroke="#e2e8f0"/>'
    return "\n".join([opening, background, *parts, "</svg>", ""])


def draw_file(path: Path) -> None:
    """Write the chart beside a result file, if that asks for one."""
    picture = draw(json.loads(path.read_text()))
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
