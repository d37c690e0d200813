"""Charts as SVG, for pages and for files: the one place that knows matplotlib.

Colours are CSS variables (`ds_bert.reports.svg`), so that a page is light or dark as its reader
likes. Text stays text. The same chart gives the same bytes.
"""

import importlib.util
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ds_bert.reports.svg import INKS, NUM_COLORS, cleaned

INSTALL = 'pip install "ds_bert[report]"'  # where there is no matplotlib
_POINTS = 400  # of a line; more are not seen
_FONT, _INCH = 10.0, 72.0  # units of a drawing, which are pixels at its own size
_BAR_HEIGHT = 22.0
BROAD = 3.0  # lines of this width are pale
_LEGEND: dict[str, Any] = {
    **{"loc": "lower left", "bbox_to_anchor": (0, 1.0), "frameon": False, "fontsize": _FONT - 1},
    **{"borderaxespad": 0.2, "borderpad": 0, "handlelength": 1.6, "columnspacing": 1.2},
    "labelspacing": 0.3,
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ds_bert",
    "path.simplify": True,
    "font.size": _FONT,
    "text.parse_math": False,  # a name with two $ is a name
    "axes.edgecolor": INKS["soft"],
    "axes.labelcolor": INKS["soft"],
    "text.color": INKS["text"],
    "xtick.color": INKS["soft"],
    "ytick.color": INKS["soft"],
    "grid.color": INKS["grid"],
}


@dataclass(frozen=True)
class Line:
    """Values over numbers.

    Attributes:
        name: for the legend.
        x, y: of the same length; None and what is not finite leaves a gap.
        color: 1 to NUM_COLORS, 0 for the soft colour of text.
        width: in pixels.
        dashes: of matplotlib, such as "-", ":" and "--".
        band: low and high ends around each value, such as those of intervals; None: none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    color: int = 1
    width: float = 1.6
    dashes: str = "-"
    band: Sequence[tuple[float, float]] | None = None


@dataclass(frozen=True)
class Lines:
    """A panel of lines.

    Attributes:
        lines: drawn in this order.
        x_label, y_label: beside the axes.
        levels: name and value of horizontal lines.
        marks: name and place of vertical lines; the same name may come again.
        title: above the panel.
        is_log: whether values are on a logarithmic axis.
    """

    lines: Sequence[Line]
    x_label: str = "optimizer step"
    y_label: str = ""
    levels: Sequence[tuple[str, float]] = ()
    marks: Sequence[tuple[str, float]] = ()
    title: str = ""
    is_log: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar with its name before and its figure behind it.

    Attributes:
        name: before it.
        value: its length.
        figure: behind it.
        color: 1 to NUM_COLORS, 0 for the soft colour.
        ends: of a whisker; None for no whisker.
    """

    name: str
    value: float
    figure: str
    color: int = 1
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Bars:
    """A panel of horizontal bars.

    Attributes:
        bars: the first one above.
        title: above the panel.
        label_share, figure_share: of the width, left to names and to figures.
        longest: value of a full bar; None: the largest here.
    """

    bars: Sequence[Bar]
    title: str = ""
    label_share: float = 0.28
    figure_share: float = 0.2
    longest: float | None = None


Panel = Lines | Bars


def is_available() -> bool:
    """Whether charts can be drawn (matplotlib is an extra, `INSTALL`)."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(
    panels: Panel | Sequence[Panel], name: str, width: float = 420, height: float = 240
) -> str:
    """One or several panels as an SVG element, to stand in a page that has palette.css.

    Args:
        panels: one above the other.
        name: what the chart shows, for those who do not see it.
        width: of the drawing, in pixels.
        height: of a panel of lines; one of bars is as high as they need.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its caches
    import matplotlib
    from matplotlib.figure import Figure

    panels = [panels] if isinstance(panels, Lines | Bars) else list(panels)
    heights = [_height(panel, height) for panel in panels]
    total = sum(heights)
    with matplotlib.rc_context(_SETTINGS), io.StringIO() as file:
        figure = Figure(figsize=(width / _INCH, total / _INCH), dpi=_INCH)
        figure.patch.set_visible(False)
        top = total
        for panel, its_height in zip(panels, heights, strict=True):
            top -= its_height
            part = (0.0, top / total, 1.0, its_height / total)
            _title(figure, panel, part)
            if isinstance(panel, Bars):
                _draw_bars(figure, panel, part)
            else:
                _draw_lines(figure, panel, part)
        figure.savefig(file, format="svg", metadata=dict.fromkeys(_METADATA))
        return cleaned(file.getvalue(), name, width, total)


_METADATA = ("Date", "Creator", "Format", "Type")


def _height(panel: Panel, of_lines: float) -> float:
    head = 26.0 if panel.title else 4.0
    return head + (of_lines if isinstance(panel, Lines) else _BAR_HEIGHT * len(panel.bars))


def _title(figure: Any, panel: Panel, part: tuple[float, ...]) -> None:
    if panel.title:
        width, height = figure.get_size_inches() * _INCH
        place = (part[0] + 24 / width, part[1] + part[3] - 16 / height)
        figure.text(*place, panel.title, color=INKS["soft"])


def _draw_lines(figure: Any, panel: Lines, part: tuple[float, ...]) -> None:
    """In axes with a legend above, whose rows are counted before, and margins in pixels."""
    width, height = figure.get_size_inches() * _INCH
    columns = _columns(panel, width)
    rows = -(-len(_entries(panel)) // columns) if len(_entries(panel)) > 1 else 0
    left, below, right, above = 54, 36, 12, 8 + 13 * rows + 22 * bool(panel.title)
    x, y, w, h = part
    place = (x + left / width, y + below / height)
    axes = figure.add_axes((*place, w - (left + right) / width, h - (below + above) / height))
    axes.patch.set_visible(False)
    _plot(axes, panel)
    if panel.is_log:
        axes.set_yscale("log")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(True, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
    _set_ticks(axes, panel.is_log)
    if rows:
        axes.legend(ncols=columns, **_LEGEND)


def _plot(axes: Any, panel: Lines) -> None:
    for line in panel.lines:
        x, y = thinned(line.x, line.y)
        are_few = len(x) < 4 or line.band is not None
        ink, marker = _ink(line.color), "o" if are_few else ""
        if line.band is not None:
            ends = (thinned(line.x, part)[1] for part in zip(*line.band, strict=True))
            axes.fill_between(x, *ends, color=ink, alpha=0.2, linewidth=0)
        style = {"linewidth": line.width, "linestyle": line.dashes, "marker": marker}
        alpha = 0.45 if line.width >= BROAD else 1.0
        axes.plot(x, y, color=ink, label=line.name, markersize=3, alpha=alpha, **style)
    for number, (name, value) in enumerate(panel.levels):
        dashes = ("--", ":", "-.")[number % 3]
        axes.axhline(value, color=INKS["text"], linewidth=1, linestyle=dashes, label=name)
    told: list[str] = []  # a name comes into the legend once; "_" never does
    for name, place in panel.marks:
        label = "_" if name in told else name
        told += [name] * (name not in told)
        style = {"color": _ink(5 * (name == told[0])), "linestyle": (0, (1, 2))}
        axes.axvline(place, linewidth=1, label=label, **style)


def _set_ticks(axes: Any, is_log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    if is_log:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    """A number at an axis: 250, 20k, 1.5M."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.6g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:,.6g}k"
    return f"{value:,.6g}"


def _entries(panel: Lines) -> list[str]:
    names = [line.name for line in panel.lines] + [name for name, _ in panel.levels]
    return [name for name in dict.fromkeys([*names, *(name for name, _ in panel.marks)]) if name]


def _columns(panel: Lines, width: float) -> int:
    """Of a legend, by the letters that have room."""
    longest = max((len(name) for name in _entries(panel)), default=1)
    return max(1, min(5, int(width / 6.8) // (longest + 6)))


def _draw_bars(figure: Any, panel: Bars, part: tuple[float, ...]) -> None:
    """Without axes, which take most of the time of a drawing; in parts of the figure."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches() * _INCH
    longest = panel.longest or max((bar.value for bar in panel.bars), default=1.0) or 1.0
    left, unit = panel.label_share, (1 - panel.label_share - panel.figure_share) / longest
    for row, bar in enumerate(panel.bars, 1):
        middle = part[1] + (_BAR_HEIGHT * (len(panel.bars) - row + 0.5)) / height
        thick, end = 0.64 * _BAR_HEIGHT / height, bar.value
        place = (left, middle - thick / 2)
        figure.add_artist(Rectangle(place, bar.value * unit, thick, color=_ink(bar.color)))
        if bar.ends is not None:
            end = max(end, bar.ends[1])
            ends = [left + value * unit for value in bar.ends]
            ink = INKS["text"]
            figure.add_artist(Line2D(ends, [middle] * 2, color=ink, linewidth=1, marker="|"))
        figure.text(left - 6 / width, middle, bar.name, ha="right", va="center")
        figure.text(left + end * unit + 5 / width, middle, bar.figure, va="center")


def _ink(color: int) -> str:
    return INKS[f"line-{(color - 1) % NUM_COLORS + 1}" if color else "soft"]


def thinned(
    x: Sequence[float], y: Sequence[float | None]
) -> tuple[Sequence[float], Sequence[float]]:
    """At most 400 points of a line, means of neighbours; None becomes NaN."""
    pairs = [
        (float(a), math.nan if b is None or not math.isfinite(b) else float(b))
        for a, b in zip(x, y, strict=True)
    ]
    size = -(-len(pairs) // _POINTS)
    if size <= 1:
        return [a for a, _ in pairs], [b for _, b in pairs]
    parts = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return [part[-1][0] for part in parts], [_mean([b for _, b in part]) for part in parts]


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
