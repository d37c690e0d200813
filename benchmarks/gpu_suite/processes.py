"""One part of the suite as a process group with a time limit."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import NamedTuple, TextIO

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
OK, NOT_RUN, OUT_OF_TIME, FAILED = "ok", "could not run", "out of time", "FAILED"


class Outcome(NamedTuple):
    """What became of a part."""

    name: str
    verdict: str
    seconds: float
    remark: str = ""


def run(
    name: str, command: list[str], environment: dict[str, str], limit: float, log: TextIO
) -> Outcome:
    """Run a command within a time limit; nothing of its process group outlives it.

    Args:
        name: of the part.
        command: to run.
        environment: all of it.
        limit: seconds.
        log: gets what is printed, as standard output does.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    copying = threading.Thread(target=_copy, args=(process.stdout, log), daemon=True)
    copying.start()
    try:
        code = process.wait(limit)
        verdict = {0: OK, 2: NOT_RUN}.get(code, FAILED)
        remark = f"exit code {code}" if verdict == FAILED else ""
    except subprocess.TimeoutExpired:
        verdict, remark = OUT_OF_TIME, f"killed after {limit:.0f} s"
    finally:  # also where we are told to end
        _end_group(process)
    copying.join(GRACE)
    return Outcome(name, verdict, time.monotonic() - begin, remark)


def say(line: str, log: TextIO) -> None:
    """Print a line and log it."""
    for output in (sys.stdout, log):
        print(line, file=output, flush=True)


def _copy(source: TextIO, log: TextIO) -> None:
    for line in source:
        say(line.rstrip("\n"), log)


def _end_group(process: subprocess.Popen) -> None:
    """End whoever is left of the group: SIGTERM, then SIGKILL."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
