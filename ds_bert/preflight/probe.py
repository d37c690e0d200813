"""Asked by `remote` through ssh: answers questions about this host, one JSON line each.

python -m ds_bert.preflight.probe

The connection carries all questions of a preflight, so that the time of a start does not count as a
difference of clocks, and a port that was opened is closed with it.
"""

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ds_bert.errors import UserError
from ds_bert.preflight.facts import facts
from ds_bert.preflight.ranks import Ranks

MARK = "ds_bert:"  # before each answer: shells print greetings of their own
_CONNECT = 5  # seconds


class Probe:
    """The answers; each public method is a question by its name."""

    def __init__(self) -> None:
        self._listener: socket.socket | None = None
        self._ranks: Ranks | None = None

    def facts(self, **about: Any) -> dict[str, Any]:
        """See `ds_bert.preflight.facts`."""
        return facts(**about)

    def clock(self) -> dict[str, Any]:
        """Seconds since 1970."""
        return {"time": time.time()}

    def listen(self, port: int) -> dict[str, Any]:
        """Open a port, for others to `reach`; says which is free if it is not."""
        try:
            self._listener = socket.create_server(("", port), backlog=1024)
        except OSError as error:
            return {"error": os.strerror(error.errno or 0), "free": _next_free(port)}
        threading.Thread(target=_accept, args=(self._listener,), daemon=True).start()
        return {}

    def reach(self, addresses: list[str], port: int) -> dict[str, Any]:
        """Connect to each address: by address, None, or why it cannot be reached."""
        threads, found = [], dict[str, Any]()
        for address in addresses:
            threads.append(threading.Thread(target=_connect, args=(address, port, found)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        return found

    def close(self) -> dict[str, Any]:
        """Close the port."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`, which would keep the port
            self._listener.close()
        return {}

    def plant(self, folder: str, name: str) -> dict[str, Any]:
        """Write a file, for others to see, into the folder or what is there of the way to it."""
        place = _existing(folder)
        try:
            (place / name).touch(exist_ok=False)
        except OSError as error:
            return {"error": f"{place}: {error.strerror}"}
        return {}

    def sees(self, folder: str, name: str) -> dict[str, Any]:
        """Whether that file is there; network disks may take seconds to show it."""
        place = _existing(folder)
        for _ in range(8):
            if (place / name).exists():
                return {"sees": True}
            time.sleep(0.25)
        return {"sees": False}

    def uproot(self, folder: str, name: str) -> dict[str, Any]:
        """Remove that file."""
        with suppress(OSError):
            (_existing(folder) / name).unlink()
        return {}

    def start_ranks(self, **how: Any) -> dict[str, Any]:
        """See `ds_bert.preflight.ranks`."""
        self._ranks = Ranks(**how)
        return {}

    def look_at_ranks(self) -> dict[str, Any]:
        """Whether all ranks of this host have "ended", and one of them has "failed"."""
        assert self._ranks is not None
        return self._ranks.look()

    def end_ranks(self) -> list[dict[str, Any]]:
        """How far each rank of this host came."""
        assert self._ranks is not None
        return self._ranks.end()


def _next_free(port: int) -> int:
    for other in range(port + 1, port + 100):
        with suppress(OSError), socket.create_server(("", other)):
            return other
    return 0


def _accept(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.recv(1)  # who has connected closes first, so that the port is free at once
            connection.close()


def _connect(address: str, port: int, found: dict[str, Any]) -> None:
    try:
        with socket.create_connection((address, port), _CONNECT):
            found[address] = None
    except OSError as error:
        found[address] = error.strerror or str(error)


def _existing(folder: str) -> Path:
    absolute = Path(folder).absolute()
    return next(path for path in (absolute, *absolute.parents) if path.is_dir())


def main() -> None:
    """Answer until the one who asks has gone."""
    probe = Probe()
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = getattr(probe, question.pop("ask"))(**question)
        except (UserError, OSError) as error:
            answer = {"error": str(error)}
        print(MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
