"""The corpus report for people: a page with histograms, and the same as text for a terminal."""

from collections.abc import Iterator
from typing import Any

from ds_bert.reports.charts import Bar, Bars
from ds_bert.reports.pages import Chart, render

PAGE = "report.html"  # in the folder of the data set
_BLOCKS = " ▏▎▍▌▋▊▉█"  # eighths of a character
_TEXT_BAR = 30  # characters
_LONG_LABEL = 10_000  # no room for both ends of a range


def report_page(report: dict[str, Any], title: str) -> str:
    """One HTML page that loads nothing from elsewhere; the same record gives the same bytes."""
    charts = [_chart(name, histogram) for name, histogram in _histograms(report)]
    return render("corpus.html.j2", title, pairs=list(_facts(report)), charts=charts)


def report_text(report: dict[str, Any]) -> str:
    """The same with bars of block characters."""
    facts = list(_facts(report))
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:{width}}  {value}" for name, value in facts]
    for name, histogram in _histograms(report):
        lines += ["", name, *text_bars(histogram)]
    return "\n".join(lines)


def _facts(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    single = report["one_sentence_documents"] / max(1, report["documents"])
    documents = f"{report['documents']:,}, {single:.1%} of one sentence"
    if near := report.get("near_duplicates"):  # absent from older data sets
        documents += f", {near['documents']:,} nearly the same as an earlier one"
    yield "documents", documents
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
    for corpus in report.get("corpora", []):
        sequences = ", ".join(f"{n:,} of {length}" for length, n in corpus["sequences"].items())
        weight = "" if corpus["weight"] is None else f", weight {corpus['weight']:g}"
        yield (
            f"corpus {corpus['name']}",
            f"{corpus['documents']:,} documents, {corpus['sentences']:,} sentences, "
            f"{corpus['tokens']:,} tokens; sequences: {sequences}{weight}",
        )


def _histograms(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    for name in ("tokens_per_sentence", "sentences_per_document", "tokens_per_document"):
        yield name.replace("_", " "), report[name]
    for length, figures in report["lengths"].items():
        yield f"tokens per sequence, max_seq_length {length}", figures["tokens_per_sequence"]


def _chart(name: str, histogram: dict[str, int]) -> Chart:
    bins = list(_bins(histogram))
    bars = [Bar(label, number, f"{share:.1%}") for label, number, share, _ in bins]
    rows = [(label, f"{number:,}", f"{share:.1%}") for label, number, share, _ in bins]
    title = name[:1].upper() + name[1:]
    return Chart(title, Bars(bars), ("length", "items", "share"), rows)


def text_bars(histogram: dict[str, int]) -> Iterator[str]:
    """A histogram as lines with bars of block characters; bins are told by their upper ends."""
    for label, number, share, size in _bins(histogram):
        yield f"{label:>15}  {_text_bar(size):{_TEXT_BAR}} {share:6.1%}  {number:,}"


def _bins(histogram: dict[str, int]) -> Iterator[tuple[str, int, float, float]]:
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
