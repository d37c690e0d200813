"""Signals that stop a run: the first asks, a second SIGTERM or SIGINT ends the process at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REQUESTS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # of schedulers and of Ctrl-C
INSIST = (signal.SIGTERM, signal.SIGINT)  # SIGUSR1 only announces a SIGTERM
ONE_REQUEST = 2.0  # seconds; within them `timeout` and launchers may send the same signal twice


@contextmanager
def stop_signals(request: Callable[..., Any]) -> Iterator[None]:
    """Call `request` at SIGTERM, SIGUSR1 and SIGINT; end the process where one insists.

    Python calls handlers in the main thread, which may be in compiled code for ever. So another
    thread counts: Python's own C handler writes the number of each signal to a pipe.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = [signal.signal(kind, request) for kind in REQUESTS]
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    counter = threading.Thread(target=_end_at_second, args=(reader,), name="signals", daemon=True)
    counter.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for kind, handler in zip(REQUESTS, before, strict=True):
            signal.signal(kind, handler)
        os.close(writer)
        counter.join()
        os.close(reader)


def _end_at_second(reader: int) -> None:
    first = None
    while kinds := os.read(reader, 64):
        for kind in set(INSIST).intersection(kinds):
            first = first or time.monotonic()
            if time.monotonic() - first > ONE_REQUEST:
                os._exit(128 + kind)
