"""What a model card says of losses and accuracies: tables, a picture, and the hub's own form."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ds_bert import files
from ds_bert.errors import DataError
from ds_bert.reports import charts
from ds_bert.reports.svg import as_file

Rows = dict[str, Any]
PICTURE = "losses.svg"
_OF_TOKENS = ("mlm_loss", "perplexity", "mlm_accuracy")
_OF_PAIRS = ("nsp_loss", "nsp_accuracy", "sop_loss", "sop_accuracy")
_TITLES = {"mlm_loss": "masked-LM loss", "nsp_loss": "next-sentence loss"}
_TITLES["sop_loss"] = "sentence-order loss"
_MAX_ROWS = 10  # of the course of validation
_WIDTH = 640  # of the picture


def read_metrics(file: str) -> Rows:
    """The JSON of `ds-bert evaluate`.

    Raises:
        DataError: not readable, or none of its figures in it.
    """
    try:
        metrics = files.parse_json(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"--metrics {file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"--metrics {file}: not valid JSON ({error})") from None
    if not isinstance(metrics, dict) or "mlm_loss" not in metrics:
        raise DataError(
            f"--metrics {file}: found no mlm_loss, expected what ds-bert evaluate prints; make it "
            "anew: ds-bert evaluate --checkpoint RUN --output FILE"
        )
    return metrics


def table(rows: Rows) -> str:
    """Names and values as Markdown."""
    lines = [f"| {name} | {str(value).replace('|', '/')} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines] if lines else [])


def evaluation(found: Rows) -> str:
    """Losses and accuracies with their intervals, where there are such.

    Args:
        found: the JSON of `ds-bert evaluate`, or a row of validation.
    """
    if "mlm_loss" not in found:
        return ""
    intervals = found.get("intervals") or {}
    names = [name for name in (*_OF_TOKENS, *_OF_PAIRS) if found.get(name) is not None]
    shown = {name: f"{found[name]:.4f}{_interval(intervals.get(name))}" for name in names}
    step = f" at step {found['step']:,}" if "step" in found else ""
    counts = f"{found['num_sequences']:,} sequences, " if "num_sequences" in found else ""
    masked = f", {found['masked_share']:.1%} masked" if "masked_share" in found else ""
    about = f"On {counts}held-out text{step}{masked}. Losses in nats."
    if intervals:
        about += " Brackets: 95 % bootstrap intervals by document."
    return f"{about}\n\n{table(shown)}"


def _interval(ends: Any) -> str:
    is_known = isinstance(ends, list) and len(ends) == 2 and None not in ends
    return f" [{ends[0]:.4f}, {ends[1]:.4f}]" if is_known else ""


def for_the_hub(found: Rows) -> list[EvalResult]:
    """Figures in the form that the hub reads."""
    about: Rows = {"task_type": "fill-mask", "dataset_type": "held-out"}
    about["dataset_name"] = "held-out text"
    kinds = {"perplexity": "perplexity", "mlm_accuracy": "accuracy"}
    return [
        EvalResult(**about, metric_type=kind, metric_name=name, metric_value=found[name])
        for name, kind in kinds.items()
        if found.get(name) is not None
    ]


def course(rows: list[Rows]) -> str:
    """Some of the validations among the rows of a log, evenly spread and with the last one."""
    rows = [row for row in rows if row.get("kind") == "validation"]
    if len(rows) < 2:
        return ""
    count = min(_MAX_ROWS, len(rows))
    chosen = [rows[round(n * (len(rows) - 1) / (count - 1))] for n in range(count)]
    names = [name for name in ("step", *_OF_TOKENS, *_OF_PAIRS) if name in rows[-1]]
    lines = [names, ["---"] * len(names), *([_cell(row.get(n)) for n in names] for row in chosen)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{'' if value is None else value}"


def draw_losses(folder: Path, rows: list[Rows]) -> str:
    """Draw training and validation losses, a panel for each, into a file beside the card.

    Args:
        folder: the export.
        rows: of the run's log.

    Returns:
        the picture's line of the card; empty with too few rows, or without matplotlib.
    """
    panels = [panel for name in _TITLES for panel in _panels(name, rows)]
    if not panels or not charts.is_available():
        return ""
    drawing = charts.draw(panels, "losses by optimizer step", _WIDTH)
    (folder / PICTURE).write_text(as_file(drawing, "Losses"), encoding="utf-8")
    return f"![Losses by optimizer step]({PICTURE})"


def _panels(name: str, rows: list[Rows]) -> Iterator[charts.Lines]:
    lines = []
    for color, kind in enumerate(("train", "validation"), 1):
        some = [row for row in rows if row.get("kind") == kind and row.get(name) is not None]
        steps, values = [row["step"] for row in some], [row[name] for row in some]
        if len(some) > 1:
            lines.append(charts.Line(kind, steps, values, color))
    if lines:
        yield charts.Lines(lines, y_label="nats", title=_TITLES[name])
