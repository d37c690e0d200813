"""What was found of a model after its training, as tables of its run's page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ds_bert.files import parse_json

_FIGURES = ("accuracy", "macro_f1")


class Table(NamedTuple):
    """A table of a page."""

    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def read_results(evaluation: Path, score: Path) -> list[Table]:
    """Tables of what `ds-bert evaluate` and `ds-bert score` wrote; of files that are there."""
    metrics, found = read_record(evaluation), []
    if intervals := metrics.get("intervals"):
        rows = [(n, shown(n, metrics.get(n)), interval(n, ends)) for n, ends in intervals.items()]
        caption = f"On {metrics.get('num_sequences', 0):,} held-out sequences"
        found.append(Table(caption, ("figure", "value", "95 % interval"), rows))
    if samples := metrics.get("fill_mask"):
        header = ("sentence", "was hidden", "guesses")
        found.append(Table("Guesses for a hidden word", header, [_guesses(s) for s in samples]))
    record = read_record(score)
    if models := list(scores(record)):
        what = f"{record.get('task')}, {record.get('num_test', 0):,} test examples"
        caption = f"Fine-tuned for {what}"
        found.append(Table(caption, ("model", "accuracy", "macro F1"), models))
    return found


def scores(record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Of each model of a score its name and figures, with intervals; then the baseline's."""
    for one in (record, *record.get("compare", ())) if "accuracy" in record else ():
        name = one["checkpoint"] if one.get("trained", True) else f"{one['checkpoint']}, untrained"
        told = (f"{shown(f, one[f])} {interval(f, one[f'{f}_interval'])}" for f in _FIGURES)
        yield (name, *told)
    if baseline := record.get("baseline"):
        always = f"always {baseline['label']}"
        yield (always, *(shown(name, baseline[name]) for name in _FIGURES))


def interval(name: str, ends: Any) -> str:
    """The ends of an interval of a figure, for people; nothing where there are none."""
    low, high = ends or (None, None)
    return "" if low is None else f"[{shown(name, low)}, {shown(name, high)}]"


def shown(name: str, value: float | None) -> str:
    """A figure for people: a share in per cent."""
    if value is None:
        return ""
    return f"{value:.2%}" if "accuracy" in name or name in _FIGURES else f"{value:.4g}"


def _guesses(sample: dict[str, Any]) -> tuple[str, ...]:
    told = (f"{one['token']} {one['probability']:.1%}" for one in sample["guesses"])
    hidden = f"{sample['truth']} {sample['truth_probability']:.1%}"
    return (sample["text"], hidden, ", ".join(told))


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none."""
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
