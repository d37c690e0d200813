"""A small process beside each rank: ends it if it does not answer at all.

A rank that is stopped, or whose compiled code never lets go of Python's lock, cannot end itself.
This file is run as a script, without torch, by `watchdog`; it leaves when its rank does.
"""

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress


class Sentry:
    """Started by a rank for itself."""

    def __init__(self) -> None:
        command = [sys.executable, "-S", "-E", __file__, str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)

    def answer(self, seconds: float) -> None:
        """The rank is there, and is to be left alone for so many seconds."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # somebody has ended the sentry: do without
            self._process.stdin.write(f"{seconds:.0f}\n".encode())

    def leave(self) -> None:
        """The rank needs no sentry any more."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _watch(rank: int) -> None:
    """Count own seconds, not the clock's: a suspended job suspends its sentries, too."""
    patience, silent = 0, 0
    while os.getppid() == rank:
        if select.select([0], [], [], 1.0)[0]:
            answers = os.read(0, 4096).split()
            if not answers:
                return
            patience, silent = int(answers[-1]), 0
        else:
            silent += 1
        if patience and silent >= patience:
            _end(rank, silent)


def _end(rank: int, silent: int) -> None:
    print(
        f"process {rank} has not answered for {silent} s and is ended; its stacks follow",
        file=sys.stderr,
        flush=True,
    )
    os.kill(rank, signal.SIGABRT)  # faulthandler shows the stacks, if the process runs at all
    time.sleep(1)
    if os.getppid() == rank:
        os.kill(rank, signal.SIGKILL)
    sys.exit()


if __name__ == "__main__":
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(kind, signal.SIG_IGN)  # meant for the rank, which decides what follows
    _watch(int(sys.argv[1]))
