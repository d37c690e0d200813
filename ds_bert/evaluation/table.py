"""The record of an evaluation as text for people."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

_ENDS = ("_loss", "_accuracy")
_TITLES = {
    "frequency": "by frequency of the token in the data",
    "piece": "by place in the word",
    "position": "by position in the sequence",
    "length": "by tokens of the sequence",
    "relation": "by relation of the segments",
}
_BASELINE = ("length_accuracy", "length_and_overlap_accuracy")


def as_table(record: dict[str, Any]) -> str:
    """The record of `ds_bert.evaluation.saved_model.evaluate_path`, a line or more for each part.

    Brackets hold intervals of 95 %; a dash stands where there are too few documents for one.
    """
    lines = [
        f"{record['checkpoint']} on {record['data']}, {record['max_seq_length']} tokens",
        f"{record['num_sequences']:,} sequences of {record['bootstrap']['num_documents']:,} "
        f"documents, {record['num_masked_tokens']:,} of {record['num_tokens']:,} tokens asked for "
        f"({record['masked_share']:.1%})",
        "",
        *_aligned(_main(record)),
    ]
    for key in record:
        if key.endswith("_baseline"):
            lines += ["", *_baseline(key.removesuffix("_baseline"), record[key])]
    for way, rows in record["slices"].items():
        lines += ["", _TITLES[way], *_aligned(_slices(rows))]
    if "compare" in record:
        lines += ["", *_compared(record["compare"])]
    if "pseudo_perplexity" in record:
        lines += ["", *_pseudo_perplexity(record["pseudo_perplexity"])]
    for sample in record.get("fill_mask", ()):
        lines += ["", *_sample(sample)]
    return "\n".join(lines)


def _main(record: dict[str, Any]) -> Iterator[list[str]]:
    for name, interval in record["intervals"].items():
        yield [name, _figure(name, record[name]), _interval(name, interval)]


def _baseline(name: str, record: dict[str, Any]) -> Iterator[str]:
    yield f"{name} without reading: what logistic regressions guess right"
    rows = [["larger class", _figure("_accuracy", record["share_of_larger_class"]), ""]]
    for key, title in zip(_BASELINE, ("lengths", "lengths and shared tokens"), strict=True):
        rows.append([title, *_with_interval("_accuracy", record, key)])
    rows.append(["the model above the better", *_with_interval("_accuracy", record, "gain")])
    yield from _aligned(rows)


def _slices(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    figures = [key for key in keys if key.endswith(_ENDS)]
    counts = [key for key in keys if key.startswith("num_")]
    yield ["", *(key.removeprefix("num_").replace("_", " ") for key in counts)] + [
        word for key in figures for word in (key, "")
    ]
    for row in rows:
        numbers = [f"{row[key]:,}" if key in row else "" for key in counts]
        found = [cell for key in figures for cell in _with_interval(key, row, key)]
        yield [row["slice"], *numbers, *found]


def _compared(record: dict[str, Any]) -> Iterator[str]:
    yield f"against {record['checkpoint']} on the same masks"
    rows = [["", "other", "difference", "", "p", ""]]
    words = {"this": "better", "other": "worse", None: "may be chance"}
    for name, row in record["differences"].items():
        found = _with_interval(name, row, "difference")
        p_value, better = _figure("p_value", row["p_value"]), words[row["better"]]
        rows.append([name, _figure(name, record[name]), *found, p_value, better])
    yield from _aligned(rows)


def _pseudo_perplexity(record: dict[str, Any]) -> Iterator[str]:
    numbers = f"{record['num_sentences']:,} sentences, {record['num_tokens']:,} tokens"
    yield f"pseudo-perplexity of {numbers}"
    ways = {"token": "each token hidden alone", "word_l2r": "with the rest of its word"}
    yield from _aligned(
        [[text, *_with_interval("perplexity", record, key)] for key, text in ways.items()]
    )


def _sample(sample: dict[str, Any]) -> Iterator[str]:
    yield sample["text"]
    yield f"  {sample['truth']} was hidden, given {sample['truth_probability']:.1%}; guesses: " + (
        ", ".join(f"{guess['token']} {guess['probability']:.1%}" for guess in sample["guesses"])
    )


def _with_interval(name: str, row: dict[str, Any], key: str) -> list[str]:
    if key not in row:
        return ["", ""]
    return [_figure(name, row[key]), _interval(name, row[f"{key}_interval"])]


def _figure(name: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    if "_accuracy" in name:
        return f"{value:.2%}"
    return f"{value:,.1f}" if name == "perplexity" else f"{value:.4f}"


def _interval(name: str, ends: Sequence[float]) -> str:
    low, high = (_figure(name, end) for end in ends)
    return "-" if low == "-" else f"[{low}, {high}]"


def _aligned(rows: Sequence[list[str]] | Iterator[list[str]]) -> list[str]:
    """Columns of equal width, the first to the left."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
