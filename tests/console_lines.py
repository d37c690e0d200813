"""The kinds of lines that a run shows; whatever is of no kind comes from another package."""

import re

KINDS = {
    "plan": r"(?=.{16}: ) *\w[\w -]*: .+",
    "training": r"step [\d,]+/[\d,]+ loss \d.* ETA \w+",
    "validation": r"step [\d,]+ validation: mlm_loss .+ masked\)",
    "saved": r"saved .+/step_\d+",
    "stopped": r"stopped on request at step \d+ .+",
    "launcher": r"\[.+\] \[ERROR\] \[launch\.py:.+ exits with return code = \d+",
}


def kinds(text: str) -> list[str]:
    """The kind of each line, one after the other the same told once; a line of no kind as it is."""
    found: list[str] = []
    for line in text.splitlines():
        names = (name for name, pattern in KINDS.items() if re.fullmatch(pattern, line))
        kind = next(names, line)
        if found[-1:] != [kind]:
            found.append(kind)
    return found
