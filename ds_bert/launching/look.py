"""Which hosts are there: all are asked at once, in the background."""

import threading
from collections.abc import Mapping

from ds_bert.preflight.remote import Host, NoAnswer, ask_all

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
        self._thread = threading.Thread(target=self._ask, name="look", daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        _, silent = ask_all(self._hosts, LIMIT, "clock")
        self._close()
        self.silent = self._failed | {name: why.partition(";")[0] for name, why in silent.items()}

    def _close(self) -> None:
        for host in self._hosts.values():
            host.end()

    def end(self) -> None:
        """Leave no process behind, answered or not."""
        self._close()
        self._thread.join()
