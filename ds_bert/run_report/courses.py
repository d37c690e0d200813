"""Values of logs over the steps of all phases, as charts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ds_bert.reports.charts import Line, Lines
from ds_bert.reports.pages import Chart
from ds_bert.run_report.history import Phase, Row

Levels = list[tuple[str, float]]
Value = Callable[[Row], float | None]
TRAIN, VALIDATION = "train", "validation"
_TABLE_ROWS = 12


@dataclass(frozen=True)
class Course:
    """One value over all phases.

    Attributes:
        name: for the legend.
        kind: of the rows that have it.
        value: of a row; None where it has none.
        digits: format of a figure in the table.
    """

    name: str
    kind: str
    value: Value
    digits: str = ".4g"


def field(name: str, part: str | None = None) -> Value:
    """A number in a row, or in an object of the row."""

    def value(row: Row) -> float | None:
        found = row.get(name)
        if part is not None:
            found = found.get(part) if isinstance(found, dict) else None
        return float(found) if isinstance(found, int | float) else None

    return value


class Builder:
    """Makes charts over the steps of all phases."""

    def __init__(self, phases: Sequence[Phase]):
        self._phases = phases
        self._marks = list(marks(phases))

    def chart(
        self,
        title: str,
        courses: Sequence[Course],
        y_label: str,
        levels: Levels | None = None,
        text: str = "",
        is_log: bool = False,
        beside: Sequence[Line] = (),
    ) -> Chart | None:
        """A chart of the courses that have values; None if none has."""
        found = {course: points for course in courses if (points := self._points(course))}
        if not found:
            return None
        lines = [
            Line(
                course.name,
                [step for step, _ in points],
                [value for _, value in points],
                number,
                2.2 if course.kind == VALIDATION else 1.4,
            )
            for number, (course, points) in enumerate(found.items(), 1)
        ]
        panel = Lines(
            [*beside, *lines],
            y_label=y_label,
            levels=levels or (),
            marks=self._marks,
            is_log=is_log,
        )
        return Chart(title, panel, ("step", *(c.name for c in found)), _table(found), text)

    def _points(self, course: Course) -> list[tuple[float, float | None]]:
        points: list[tuple[float, float | None]] = []
        for phase in self._phases:
            rows = phase.validation if course.kind == VALIDATION else phase.train
            values = [(row["step"], course.value(row)) for row in rows]
            if all(value is None for _, value in values):
                continue
            if points:
                points.append((points[-1][0], None))  # phases are not joined
            points += [(phase.first + step, value) for step, value in values]
        return points


def marks(phases: Sequence[Phase]) -> Iterator[tuple[str, float]]:
    """Where phases begin and where runs went on after a stop."""
    for number, phase in enumerate(phases, 1):
        if number > 1:
            before = phases[number - 2]
            yield f"phase {number} begins", before.first + before.step
        yield from (("went on", phase.first + step) for step in phase.restarts)


def _table(found: dict[Course, list[tuple[float, float | None]]]) -> list[tuple[str, ...]]:
    """Some steps, evenly chosen, with the values of all courses at or next before each."""
    steps = sorted(
        {step for points in found.values() for step, value in points if value is not None}
    )
    wanted = [steps[round(n * (len(steps) - 1) / (_TABLE_ROWS - 1))] for n in range(_TABLE_ROWS)]
    rows = []
    for step in dict.fromkeys(wanted):
        row = [f"{step:,.0f}"]
        for course, points in found.items():
            before = [value for at, value in points if at <= step and value is not None]
            row.append(format(before[-1], course.digits) if before else "")
        rows.append(tuple(row))
    return rows
