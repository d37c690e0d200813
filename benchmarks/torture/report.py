"""Rows as lines on the screen, as JSON and as the table of docs/reliability.md."""

import json
from pathlib import Path
from typing import Any

from machine import facts

from torture.moments import STOPPED
from torture.table import Row

HEADER = (
    "| fault | what happened | exit code | seconds until all had ended | steps lost "
    "| equal at the end |",
    "|---|---|---|---:|---:|---|",
)


def line(row: Row, eta: str) -> str:
    """A row for the screen: what can be counted, and what happened."""
    marks = [
        f"exit {row.codes}" if row.codes else "",
        f"{row.seconds:.1f} s until all had ended" if row.seconds is not None else "",
        f"{row.steps_lost} steps lost" if row.steps_lost is not None else "",
        f"equal {_word(row.equal)}" if row.equal is not None else "",
    ]
    told = f"{', '.join(filter(None, marks))} [{row.took:.0f} s, ETA {eta}]"
    verdict = row.verdict.partition(":")[0]
    happened = row.happened if row.verdict == "good" else row.verdict
    return f"{verdict:8} {row.name:36} {told}\n{'':8} {happened}"


def summary(rows: list[Row]) -> str:
    """The last line of a run."""
    bad = [row.name for row in rows if row.is_bad]
    skipped = sum(row.verdict.startswith("skipped") for row in rows)
    good = len(rows) - len(bad) - skipped
    return f"{good} good, {len(bad)} bad, {skipped} skipped" + (f": {', '.join(bad)}" * bool(bad))


def write(path: Path, rows: list[Row], seed: int, cuda: bool) -> None:
    """Write the machine and the rows so far."""
    about = {"machine": facts(), "device": "cuda" if cuda else "cpu", "seed": seed}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "rows": [vars(row) for row in rows]}, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """What `write` has written."""
    return json.loads(path.read_text())


def markdown(content: dict[str, Any]) -> str:
    """The table, by topic, with what it was made on."""
    rows = [Row(**row) for row in content["rows"]]
    return "\n".join([_made_on(content, rows), "", *HEADER, *map(_markdown_row, rows)])


def stops(content: dict[str, Any]) -> str:
    """Seconds from each request to stop until all processes had ended, by phase."""
    rows = [Row(**row) for row in content["rows"]]
    found = [(row, *row.fault.rpartition(": ")[::2]) for row in rows if row.name[:5] == "stop."]
    seconds = {(who, phase): row.seconds for row, who, phase in found if phase in STOPPED}
    table = [f"| asked by | {' | '.join(STOPPED)} |", f"|---|{'---:|' * len(STOPPED)}"]
    for who in dict.fromkeys(who for who, _ in seconds):
        cells = (seconds.get((who, phase)) for phase in STOPPED)
        shown = ("" if cell is None else f"{cell:.1f}" for cell in cells)
        table.append(f"| {who} | {' | '.join(shown)} |")
    return "\n".join([_made_on(content, rows), "", *table])


def _made_on(content: dict[str, Any], rows: list[Row]) -> str:
    machine = content["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, ranks on {content['device']}; Python "
        f"{machine['python']}, {versions}; commit {machine['commit']}; seed {content['seed']}; "
        f"{sum(row.took for row in rows) / 60:.0f} minutes. {summary(rows)}."
    )


def _markdown_row(row: Row) -> str:
    cells = [
        row.fault,
        row.happened if row.verdict == "good" else row.verdict,
        row.codes,
        "" if row.seconds is None else f"{row.seconds:.1f}",
        "" if row.steps_lost is None else str(row.steps_lost),
        _word(row.equal),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "\\<") for cell in cells) + " |"


def _word(equal: bool | None) -> str:
    return {True: "yes", False: "NO", None: ""}[equal]
