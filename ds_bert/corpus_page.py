"""The corpus report for people: a page with histograms, and the same as text for a terminal."""

from collections.abc import Iterator
from html import escape
from string import Template
from typing import Any

from ds_bert.corpus_report import corpus_report
from ds_bert.errors import DataError
from ds_bert.manifest import write_text
from ds_bert.store import INSTANCE_DTYPE, Documents, TokenStore
from ds_bert.store_writer import StoreWriter

PAGE = "report.html"  # in the folder of the data set

_BLOCKS = " ▏▎▍▌▋▊▉█"  # eighths of a character
_TEXT_BAR = 30  # characters
_LONG_LABEL = 10_000  # no room for both ends of a range
_WIDTH, _ROW, _BAR_LEFT, _BAR_WIDTH = 320, 20, 104, 160  # of the drawings, in pixels
_PAGE = Template("""<!DOCTYPE html>
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


def write_report(
    store: StoreWriter, documents: Documents, part: str, num_workers: int
) -> dict[str, Any]:
    """Make the report of a data set that has all its arrays, and its page.

    Args:
        store: the data set.
        documents: its documents.
        part: "train" or "validation".
        num_workers: number of threads.

    Returns:
        the report for meta.json.
    """
    rows = {
        int(length): store.read(f"seq{length}/instances", INSTANCE_DTYPE)
        for length in store.lengths
    }
    report = corpus_report(documents, store.vocabulary, rows, num_workers)
    write_text(store.folder / PAGE, report_page(report, f"Corpus report: {part} data"))
    return report


def stored_report(store: TokenStore) -> dict[str, Any]:
    """The report in a data set's meta.json.

    Raises:
        DataError: the data set was made before there were reports.
    """
    if "report" not in store.meta:
        raise DataError(
            f"{store.folder} has no corpus report, it was made by an older ds_bert; remove the "
            "folder and make it again with scripts/preprocess.py"
        )
    return store.meta["report"]


def report_page(report: dict[str, Any], title: str) -> str:
    """One HTML page that loads nothing from elsewhere; the same record gives the same bytes."""
    return _PAGE.substitute(
        title=escape(title),
        facts="\n".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _facts(report)
        ),
        histograms="\n".join(
            f"<section>\n<h2>{escape(name)}</h2>\n{_drawing(name, histogram)}\n</section>"
            for name, histogram in _histograms(report)
        ),
    )


def report_text(report: dict[str, Any]) -> str:
    """The same with bars of block characters."""
    facts = list(_facts(report))
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:{width}}  {value}" for name, value in facts]
    for name, histogram in _histograms(report):
        lines += ["", name]
        lines += [
            f"{label:>15}  {_text_bar(size):{_TEXT_BAR}} {share:6.1%}  {number:,}"
            for label, number, share, size in _bars(histogram)
        ]
    return "\n".join(lines)


def _facts(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    single = report["one_sentence_documents"] / max(1, report["documents"])
    yield "documents", f"{report['documents']:,}, {single:.1%} of one sentence"
    repeats = report["repeated_sentences"]
    about = "about " if repeats["sampled_one_in"] > 1 else ""
    yield "sentences", f"{report['sentences']:,}, {about}{repeats['share']:.1%} repeat another one"
    yield "words", f"{report['words']:,}, {report['unknown_share']:.2%} unknown"
    yield "tokens", f"{report['tokens']:,}, {report['pieces_per_word']:.2f} for each word"
    for length, figures in report["lengths"].items():
        yield (
            f"sequences of {length}",
            f"{figures['sequences']:,}, {figures['padding_share']:.1%} padding if padded, "
            f"{figures['longer_sentences']:,} sentences too long for one",
        )


def _histograms(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    for name in ("tokens_per_sentence", "sentences_per_document", "tokens_per_document"):
        yield name.replace("_", " "), report[name]
    for length, figures in report["lengths"].items():
        yield f"tokens per sequence, max_seq_length {length}", figures["tokens_per_sequence"]


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


def _drawing(name: str, histogram: dict[str, int]) -> str:
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
