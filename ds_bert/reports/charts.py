"""What pages for people are drawn with: the frame of a page, and histograms."""

from collections.abc import Iterator
from html import escape
from string import Template

_BLOCKS = " ▏▎▍▌▋▊▉█"  # eighths of a character
_TEXT_BAR = 30  # characters
_LONG_LABEL = 10_000  # no room for both ends of a range
_WIDTH, _ROW, _BAR_LEFT, _BAR_WIDTH = 320, 20, 104, 160  # of the drawings, in pixels
# One page that loads nothing from elsewhere: title, facts (of a dl) and histograms.
FRAME = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { color-scheme: light dark; --text: #1b1f24; --soft: #59636e; --page: #fff; --bar: #2f6fb5; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ec; --soft: #9aa4ae; --page: #14171a; --bar: #6aa8e8; }
}
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 0 0 .3rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt, footer { color: var(--soft); } dd { margin: 0; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr));
  gap: 1.5rem; margin: 1.5rem 0; }
svg { width: 100%; max-width: 28rem; font-size: 12px; fill: var(--text); }
rect { fill: var(--bar); }
</style>
</head>
<body>
<h1>$title</h1>
<dl>
$facts
</dl>
<main>
$histograms
</main>
<footer>Each bar is a range of lengths in tokens or sentences with its share of all items.
The numbers are in meta.json under <code>report</code>.</footer>
</body>
</html>
""")


def drawing(name: str, histogram: dict[str, int]) -> str:
    """A histogram as SVG, a bar for each bin; bins are told by their upper ends."""
    bars = list(_bars(histogram))
    lines = [
        f'<svg viewBox="0 0 {_WIDTH} {_ROW * len(bars)}" role="img" aria-label="{escape(name)}">'
    ]
    for row, (label, number, share, size) in enumerate(bars):
        top, length = row * _ROW, size * _BAR_WIDTH
        lines += [
            f"<g><title>{number:,}</title>",
            f'<text x="{_BAR_LEFT - 6}" y="{top + 14}" text-anchor="end">{label}</text>',
            f'<rect x="{_BAR_LEFT}" y="{top + 3}" width="{length:.1f}" height="{_ROW - 6}"/>',
            f'<text x="{_BAR_LEFT + length + 5:.1f}" y="{top + 14}">{share:.1%}</text></g>',
        ]
    return "\n".join([*lines, "</svg>"])


def text_bars(histogram: dict[str, int]) -> Iterator[str]:
    """The same as lines with bars of block characters."""
    for label, number, share, size in _bars(histogram):
        yield f"{label:>15}  {_text_bar(size):{_TEXT_BAR}} {share:6.1%}  {number:,}"


def _bars(histogram: dict[str, int]) -> Iterator[tuple[str, int, float, float]]:
    """Label, number, share of all, and size as a part of the largest, from the first bin used."""
    total, largest = sum(histogram.values()), max(histogram.values(), default=0)
    low, is_used = 1, False
    for bound, number in histogram.items():
        high = int(bound)
        is_used = is_used or number > 0
        if is_used:
            yield _label(low, high), number, number / total, number / largest
        low = high + 1


def _label(low: int, high: int) -> str:
    if low == high:
        return f"{low}"
    return f"{low:,}-{high:,}" if high < _LONG_LABEL else f"to {high:,}"


def _text_bar(size: float) -> str:
    whole, eighths = divmod(round(size * _TEXT_BAR * 8), 8)
    return (_BLOCKS[-1] * whole + _BLOCKS[eighths]).rstrip()
