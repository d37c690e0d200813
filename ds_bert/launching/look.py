"""Which hosts are there: all are asked at once, in the background."""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from ds_bert.preflight.remote import Host, NoAnswer, collect

LIMIT = 30.0  # seconds for an answer


class Look:
    """Asks hosts whether ds_bert can be started there; a connection each.

    Args:
        commands: start a probe on each host (`ds_bert.preflight.remote`).

    Attributes:
        silent: of hosts that do not answer within `LIMIT`, the reasons; None: still asking.
    """

    def __init__(self, commands: Mapping[str, list[str]]):
        self.silent: dict[str, str] | None = None
        self._hosts, self._failed = dict[str, Host](), dict[str, str]()
        for name, command in commands.items():
            try:
                self._hosts[name] = Host(name, command)
            except NoAnswer as reason:
                self._failed[name] = str(reason)
        for host in self._hosts.values():
            host.ask("clock")
        self._thread = threading.Thread(target=self._collect, name="look", daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        _, silent = collect(self._hosts, time.monotonic() + LIMIT)
        self.silent = self._failed | {name: why.partition(";")[0] for name, why in silent.items()}

    def end(self) -> None:
        """Leave no process behind, answered or not."""
        with ThreadPoolExecutor() as pool:  # who hangs is waited for, a second
            list(pool.map(Host.end, self._hosts.values()))
        self._thread.join()
