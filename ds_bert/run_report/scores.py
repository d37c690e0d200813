"""Scores of a run's checkpoints on tasks of the user: the rows of a file beside its log, charts."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ds_bert.reports.charts import Line, Lines
from ds_bert.reports.pages import Chart
from ds_bert.run_report.courses import marks
from ds_bert.run_report.history import Phase, Row, read_rows

SCORES = "scores.jsonl"  # written by `ds-bert score --watch`
# What the user has said of a task; scores that are alike in it can be compared.
SETTINGS = (
    *("task", "train_file", "test_file", "text_column", "text_pair_column", "label_column"),
    *("seeds", "epochs", "lr", "batch_size", "max_seq_length"),
)
_FIGURES = {"accuracy": "Accuracy", "macro_f1": "Macro F1"}
_HEADER = ("step", "score", "95 % from", "to", "between seeds")


def read_scores(folder: Path) -> list[Row]:
    """The scores in a run's folder, in the order of their time; empty where there are none."""
    try:
        return read_rows(folder / SCORES)
    except OSError:
        return []


def task_of(row: Row) -> str:
    """What scores of one curve have in common, as a name."""
    return " ".join(f"{name}={row.get(name)}" for name in (*SETTINGS, "num_train", "num_test"))


def score_charts(phases: Sequence[Phase]) -> list[Chart]:
    """Charts of each figure of each task by step, with intervals as bands.

    Args:
        phases: of the run, one after the other.
    """
    found: dict[str, list[tuple[int, Row]]] = {}
    for phase in phases:
        for row in read_scores(phase.folder):
            # What a run has done after the checkpoint that the next phase began from is no past.
            if phase is phases[-1] or row["step"] <= phase.step:
                found.setdefault(task_of(row), []).append((phase.first + row["step"], row))
    return [
        chart
        for number, points in enumerate(found.values(), 1)
        for figure in _FIGURES
        for chart in _chart(figure, points, number, phases)
    ]


def _chart(
    figure: str, points: list[tuple[int, Row]], number: int, phases: Sequence[Phase]
) -> Iterator[Chart]:
    """One chart; none where no checkpoint has been scored yet."""
    trained = {
        step: row
        for step, row in sorted(points, key=lambda point: point[0])
        if row.get("trained") and row.get(figure) is not None
    }
    if not trained:
        return
    last = list(trained.values())[-1]
    line = Line(
        _FIGURES[figure],
        list(trained),
        [row[figure] for row in trained.values()],
        color=number,
        band=[_ends(row, figure) for row in trained.values()],
    )
    name = Path(str(last["test_file"])).name
    title = f"{_FIGURES[figure]} of {last['task']}, {name}" + f" ({number})" * (number > 1)
    levels = list(_levels(figure, [row for _, row in points], last))
    panel = Lines([line], y_label="share", levels=levels, marks=list(marks(phases)))
    rows = [tuple(_cells(step, row, figure)) for step, row in trained.items()]
    yield Chart(title, panel, _HEADER, rows, _text(last))


def _ends(row: Row, figure: str) -> tuple[float, float]:
    low, high = row.get(f"{figure}_interval") or (None, None)
    value = row[figure]
    return (value, value) if low is None or high is None else (low, high)


def _levels(figure: str, rows: Sequence[Row], last: Row) -> Iterator[tuple[str, float]]:
    untrained = [row for row in rows if not row.get("trained") and row.get(figure) is not None]
    if untrained:
        yield "untrained", untrained[-1][figure]
    baseline = last.get("baseline", {})
    if baseline.get(figure) is not None:
        yield f"always {baseline.get('label')}", baseline[figure]


def _cells(step: int, row: Row, figure: str) -> Iterator[str]:
    yield f"{step:,}"
    yield from (f"{value:.2%}" for value in (row[figure], *_ends(row, figure)))
    deviation = row.get(f"{figure}_deviation")
    yield "" if deviation is None else f"{deviation:.2%}"


def _text(row: Row) -> str:
    return (
        f"Mean over {row['seeds']} fine-tunings of {row['epochs']} epochs at {row['lr']:g}; band: "
        f"95 %, of other test examples ({row['num_test']:,} here)."
    )
