"""The corpus report for people: a page with histograms, and the same as text for a terminal."""

from collections.abc import Iterator
from html import escape
from typing import Any

from ds_bert.reports.charts import FRAME, drawing, text_bars

PAGE = "report.html"  # in the folder of the data set


def report_page(report: dict[str, Any], title: str) -> str:
    """One HTML page that loads nothing from elsewhere; the same record gives the same bytes."""
    return FRAME.substitute(
        title=escape(title),
        facts="\n".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _facts(report)
        ),
        histograms="\n".join(
            f"<section>\n<h2>{escape(name)}</h2>\n{drawing(name, histogram)}\n</section>"
            for name, histogram in _histograms(report)
        ),
    )


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
