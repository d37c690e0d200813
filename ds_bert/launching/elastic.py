"""A launch on the hosts that are there: fewer when one is lost, more when it is back."""

import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ds_bert.errors import ConfigurationError, RankFailed, require
from ds_bert.launching import run_folder
from ds_bert.launching.command import Command
from ds_bert.launching.look import Look
from ds_bert.preflight.compare import names
from ds_bert.preflight.remote import over_ssh

LOOK = 0.1  # seconds
MOST_FAULTS = 3  # of a host; then it is left out
FORGIVEN = 3600.0  # seconds of a launch after which fewer faults do not count any more
PROBATION = 600.0  # seconds: a launch that fails within them is the fault of hosts that came back


class Elastic:
    """Chooses the hosts of each launch.

    Args:
        command: DeepSpeed's.
        train_batch_size: sequences of an optimizer step, which ranks have to divide.
        min_hosts: with fewer it waits.
        seconds: between two looks at hosts that are missing.
        folder: of the run.
        is_asked: whether somebody has asked to stop; then nothing waits any longer.

    Raises:
        ConfigurationError: no number of hosts from `min_hosts` on divides the batch.
    """

    def __init__(
        self,
        command: Command,
        train_batch_size: int,
        min_hosts: int,
        seconds: float,
        folder: Path | None,
        is_asked: Callable[[], bool],
    ):
        self._command, self._batch, self._min_hosts = command, train_batch_size, min_hosts
        self._seconds, self._folder, self._is_asked = seconds, folder, is_asked
        self._in_use: list[str] = []
        self._new: set[str] = set()  # of those: were not in the launch before
        self._back: set[str] = set()  # hosts for which it was stopped
        self._faults = Counter[str]()
        self._silent: dict[str, str] | None = None  # by the last look, if that is news
        self._look: Look | None = None
        self._answered: set[str] = set()  # missing hosts that did so in the last look
        self._next = 0.0  # look
        total = len(command.hosts)
        require(1 <= min_hosts <= total, "min_hosts", min_hosts, f"1 to {total}, as the hostfile")
        if not self.choose(command.hosts):
            raise ConfigurationError(
                f"elastic: train_batch_size {train_batch_size} divides by the ranks of no number "
                f"of hosts from {min_hosts} to {total} ({_ranks(command, command.hosts)} ranks); "
                "choose another batch or min_hosts"
            )

    def choose(self, answering: Collection[str]) -> list[str]:
        """The most hosts whose ranks divide the batch, in order; none below the minimum."""
        there = [name for name in self._command.hosts if name in answering]
        for number in range(len(there), self._min_hosts - 1, -1):
            if self._batch % _ranks(self._command, there[:number]) == 0:
                return there[:number]
        return []

    def ready(self) -> list[str] | None:
        """DeepSpeed's arguments for the hosts that answer; waits until they are enough.

        Returns:
            None: somebody has asked to stop meanwhile.

        Raises:
            RankFailed: so many are left out that they will never be.
        """
        is_told = False
        while True:
            self._require_candidates()
            silent = self._news() if self._silent is None else self._silent
            self._silent = None
            if self._is_asked():
                return None
            if chosen := self.choose(set(self._candidates()) - set(silent)):
                self._take(chosen, silent)
                return self._command.on(chosen)
            if not is_told:
                self._tell_waiting(silent)
            is_told = True
            self._pause()

    def is_lost(self, code: int, reason: str, seconds: float) -> bool:
        """After a failure: whether its hosts were to blame, so that others go on at once.

        Args:
            code: exit code of the launch.
            reason: the same in words.
            seconds: that the launch took.
        """
        silent = self._news()
        if self._is_asked():
            return False
        if seconds > FORGIVEN:
            left_out = {n: k for n, k in self._faults.items() if k >= MOST_FAULTS}
            self._faults = Counter(left_out)
        lost = {name: silent[name] for name in self._in_use if name in silent}
        is_trial = bool(self._new) and seconds < PROBATION
        if not (lost or is_trial):
            return False
        about = {"exit_code": code, "reason": reason, "seconds": round(seconds, 1)}
        if lost:
            self._faults.update(list(lost))
            self._tell(f"lost {_why(lost)} after {seconds:,.0f} s", lost=lost, **about)
        else:
            self._faults.update({name: MOST_FAULTS for name in self._new})
            self._tell(f"{reason} after {seconds:,.0f} s", failed=sorted(self._new), **about)
        if out := _out(self._faults):
            run_folder.say(f"{out} is left out from now on")
        self._silent = silent
        return True

    def can_grow(self) -> bool:
        """Whether more hosts could be taken: they have answered twice in a row. Does not wait."""
        missing = [name for name in self._candidates() if name not in self._in_use]
        if not missing or time.monotonic() < self._next:
            return False
        if self._look is None:
            self._look = self._look_at(missing)
        if self._look.silent is None:
            return False
        answered = set(missing) - set(self._look.silent)
        self.end_look()
        twice, self._answered = answered & self._answered, answered
        return len(self.choose({*self._in_use, *twice})) > len(self._in_use)

    def end_look(self) -> None:
        """Leave no process of a look behind; the next one comes later."""
        if self._look is not None:
            self._look.end()
        self._look, self._next = None, time.monotonic() + self._seconds

    def tell_growth(self, seconds: float) -> None:
        """A launch was stopped to take more hosts."""
        self._back = self._answered
        back = sorted(self._back)
        message = f"{names(back)} back after {seconds:,.0f} s; going on with more hosts"
        self._tell(message, back=back, seconds=round(seconds, 1))

    def _candidates(self) -> list[str]:
        return [name for name in self._command.hosts if self._faults[name] < MOST_FAULTS]

    def _require_candidates(self) -> None:
        if not self.choose(self._candidates()):
            raise RankFailed(
                f"elastic: {_out(self._faults)} is left out, {self._min_hosts} hosts are needed; "
                "mend it, and start again"
            )

    def _look_at(self, hosts: Collection[str]) -> Look:
        return Look({name: over_ssh(name, self._command.ssh_port) for name in hosts})

    def _news(self) -> dict[str, str]:
        """Candidates that do not answer now, and why; waits for the answers."""
        look = self._look_at(self._candidates())
        while look.silent is None and not self._is_asked():
            time.sleep(LOOK)
        look.end()
        return look.silent or {}

    def _take(self, chosen: list[str], silent: dict[str, str]) -> None:
        before, self._in_use = self._in_use, chosen
        self._new = set(chosen) - set(before) if before else set()
        self._faults.update(self._back & silent.keys())  # gone again: else this would never end
        self._answered, self._back = set(), set()
        if chosen == before:
            return
        ranks, total = _ranks(self._command, chosen), len(self._command.hosts)
        spares = [n for n in self._candidates() if n not in chosen and n not in silent]
        spare = f"; spare: {names(spares)}" if spares else ""
        missing = f"; missing: {_why(silent)}" if silent else ""
        self._tell(
            f"{len(chosen)} of {total} hosts, {ranks} ranks: {names(chosen)}{spare}{missing}",
            hosts=chosen,
            ranks=ranks,
        )

    def _tell_waiting(self, silent: dict[str, str]) -> None:
        there = len(self._candidates()) - len(silent)
        self._tell(
            f"waiting: {there} hosts answer, {self._min_hosts} are needed ({_why(silent)}); "
            f"looking again every {self._seconds:,.0f} s",
            waiting=there,
            min_hosts=self._min_hosts,
        )

    def _pause(self) -> None:
        end = time.monotonic() + self._seconds
        while time.monotonic() < end and not self._is_asked():
            time.sleep(LOOK)

    def _tell(self, message: str, **facts: Any) -> None:
        run_folder.say(message)
        run_folder.note(self._folder, **facts)


def _ranks(command: Command, hosts: Collection[str]) -> int:
    return sum(len(command.hosts[name]) for name in hosts)


def _why(silent: dict[str, str]) -> str:
    return names([f"{name} ({reason})" for name, reason in silent.items()])


def _out(faults: Counter[str]) -> str:
    """Hosts that are left out, in words."""
    return names([name for name, number in faults.items() if number >= MOST_FAULTS])
