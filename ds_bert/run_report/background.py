"""The report of a run in progress, made by a process of its own.

    python -m ds_bert.run_report.background RUN_DIR

Drawing takes a second of Python, which a thread of the training loop would take from the loop. The
process gives way to all others, and whatever goes wrong with a page costs no run.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ds_bert import launcher
from ds_bert.run_report.history import PAGE

_LIMIT_SECONDS = 60.0  # for the last one


class ReportWriter:
    """Writes a run's report now and then.

    Args:
        folder: of the run.
        seconds: between two reports.
    """

    def __init__(self, folder: Path, seconds: float):
        self._folder, self._seconds = folder, seconds
        self._next = time.monotonic() + seconds
        self._process: subprocess.Popen | None = None

    def update(self) -> None:
        """There is something new; takes a few milliseconds at most."""
        if time.monotonic() >= self._next and self._is_idle():
            self._next = time.monotonic() + self._seconds
            self._start()

    def close(self, is_over: bool) -> Path | None:
        """Write the last report if the run is over; one that is being made is given up.

        Returns:
            the page, if there is one.
        """
        if not self._is_idle():
            self._end()
        if is_over:
            self._start()
            self._wait()
        page = self._folder / PAGE
        return page if page.is_file() else None

    def _is_idle(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _start(self) -> None:
        self._process = None
        # It must not be taken for a rank, by those who look for ranks to signal or to count.
        environment = {k: v for k, v in os.environ.items() if k not in launcher.VARIABLES}
        command = [sys.executable, "-P", "-m", __name__, str(self._folder)]
        try:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            print(f"warning: no report.html ({error.strerror}); training goes on", file=sys.stderr)

    def _wait(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._end()

    def _end(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


def write(folder: Path) -> None:
    """Write a run's report with the lowest priority; every failure is a warning."""
    with suppress(OSError):
        os.nice(19)
    try:
        from ds_bert.run_report.page import write_report

        write_report(folder)
    except Exception as error:
        print(
            f"warning: report.html of {folder} cannot be made ({error}); training goes on, and "
            f"ds-bert report {folder} tries it again",
            file=sys.stderr,
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
