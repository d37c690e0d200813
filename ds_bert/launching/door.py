"""Launching through DeepSpeed: signals reach all ranks, failures worth it are started again."""

import signal
import time
from contextlib import suppress
from typing import Any

from ds_bert import errors, launcher
from ds_bert.errors import INTERRUPTED, STOPPED_ON_REQUEST, STOPPED_TO_GROW
from ds_bert.launching import run_folder
from ds_bert.launching.command import Command
from ds_bert.launching.elastic import Elastic
from ds_bert.launching.run_folder import say
from ds_bert.launching.tree import Tree

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
ONE_REQUEST = 2.0  # seconds; within them the same may be asked twice
LOOK = 0.1  # seconds between two looks at the processes
REST = 300.0  # seconds for ranks to save whose launcher has ended
LONGEST_PAUSE = 300.0  # seconds
TERMINATED = 128 + signal.SIGTERM
REFUSED = {2, 3, 4}  # exit codes of a start; perhaps because of one host, such as its versions
# Exit codes after which another start would end alike, or which somebody has asked for.
FINAL = {0, *REFUSED, 5, STOPPED_ON_REQUEST, STOPPED_TO_GROW, INTERRUPTED, TERMINATED}


class Door:
    """Launches, and launches again.

    Args:
        arguments: of the `deepspeed` command.
        restarts: after failures, at most.
        pause: seconds before the first of them; twice as long before each further one.
        min_hosts: launch on the hosts that are there, if they are so many; None: always on all.
        check_hosts: seconds between two looks at those that are missing.
    """

    def __init__(
        self,
        arguments: list[str],
        restarts: int = 0,
        pause: float = 10.0,
        min_hosts: int | None = None,
        check_hosts: float = 60.0,
    ):
        if restarts or min_hosts is not None:
            run_folder.require_repeatable(arguments)
        self._arguments, self._restarts, self._pause = arguments, restarts, pause
        self._folder = run_folder.run_folder(arguments)
        self._requests: list[float] = []
        self._elastic: Elastic | None = None
        if min_hosts is not None:
            batch, command = run_folder.train_batch_size(arguments), Command(arguments)
            how = (min_hosts, check_hosts, self._folder, lambda: bool(self._requests))
            self._elastic = Elastic(command, batch, *how)
        self._obeyed = 0
        self._is_orphaned = False
        self._put, self._grew = 0.0, False

    def launch(self) -> int:
        """Launch until it is done, stopped, or not worth another start; returns the exit code."""
        for kind in SIGNALS:
            if signal.getsignal(kind) != signal.SIG_IGN:  # nohup
                signal.signal(kind, self._request)
        done = 0
        while True:
            arguments = self._arguments if self._elastic is None else self._elastic.ready()
            if arguments is None:
                return STOPPED_ON_REQUEST
            begin = time.monotonic()
            code = self._launch_once(arguments)
            if self._goes_on(code, seconds := time.monotonic() - begin):
                continue
            failed = self._is_orphaned or code not in FINAL
            if self._requests or not failed or done == self._restarts:
                return STOPPED_ON_REQUEST if code == STOPPED_TO_GROW else code
            done += 1
            self._tell_restart(done, code, seconds)
            if not self._wait():
                return STOPPED_ON_REQUEST

    def _goes_on(self, code: int, seconds: float) -> bool:
        """Whether a launch has ended so that one with other hosts follows at once."""
        if self._elastic is None or self._requests:
            return False
        if code == STOPPED_TO_GROW:
            self._elastic.tell_growth(seconds)
            return True
        failed = self._is_orphaned or code not in FINAL or code in REFUSED
        return failed and self._elastic.is_lost(code, self._reason(code), seconds)

    def _request(self, *_: Any) -> None:
        now = time.monotonic()
        if not self._requests or now - self._requests[-1] > ONE_REQUEST:
            self._requests.append(now)

    def _launch_once(self, arguments: list[str]) -> int:
        tree = Tree(arguments)
        while (code := tree.poll()) is None:
            self._heed(tree)
            self._grow()
            time.sleep(LOOK)
        if self._elastic is not None:
            self._elastic.end_look()
        code = self._end(tree, code)
        for name, is_ours in ((launcher.STOP_FILE, self._put), (launcher.GROW_FILE, self._grew)):
            if is_ours and self._folder is not None:
                (self._folder / name).unlink(missing_ok=True)
        if len(self._requests) == 1 and code == TERMINATED:
            return STOPPED_ON_REQUEST  # in its start, before ranks save
        return code

    def _end(self, tree: Tree, code: int) -> int:
        """Leave no process behind; the exit code as shells tell it."""
        # A rank's own signal comes as -9, that is 247; so here a launcher was killed.
        self._is_orphaned = 128 < code < 192 and bool(tree.processes())
        if self._is_orphaned:
            say("DeepSpeed's launcher was killed; the ranks that it leaves save and end")
            if not tree.ranks():
                self._put_file(tree)
        rest = tree.end_rest(REST)
        return _as_shells_say(rest or code if self._is_orphaned else code)

    def _heed(self, tree: Tree) -> None:
        """Pass requests on: the first asks, the second ends at once, a third kills."""
        count = len(self._requests)
        if count == 1 and tree.spans_hosts():
            self._put_file(tree)
        if count == self._obeyed:
            return
        if count == 1:
            ranks = tree.ranks()
            tree.signal(signal.SIGTERM, ranks)
            self._obeyed = bool(ranks) or tree.spans_hosts()  # else it has yet to start them
        else:
            self._insist(tree, count)
            self._obeyed = count

    def _grow(self) -> None:
        """Ask the ranks to save and stop, if more hosts could be taken."""
        if self._elastic is None or self._requests or not self._elastic.can_grow():
            return
        assert self._folder is not None
        with suppress(OSError):  # no folder yet: at the next look
            (self._folder / launcher.GROW_FILE).touch()
            self._grew = True

    def _insist(self, tree: Tree, count: int) -> None:
        if count > 2:
            tree.signal(signal.SIGKILL)
        elif tree.spans_hosts():
            say("ending at once; ranks on other hosts within 30 s")
            tree.signal(signal.SIGTERM)  # pdsh: DeepSpeed's launcher ends its children there
        else:
            tree.signal(signal.SIGTERM, tree.ranks())

    def _put_file(self, tree: Tree) -> None:
        """Ask ranks on other hosts through the run's folder, which they share.

        Again if it is gone: a run that was just starting may have taken it for an old one.
        """
        now = time.monotonic()
        if now - self._put < ONE_REQUEST:
            return
        self._put = now
        try:
            assert self._folder is not None
            (self._folder / launcher.STOP_FILE).touch()
        except (AssertionError, OSError):
            say("there is no run's folder yet, nothing to save: ending what was started")
            tree.signal(signal.SIGTERM)

    def _tell_restart(self, number: int, code: int, seconds: float) -> None:
        why = self._reason(code)
        say(
            f"{why} after {seconds:,.0f} s; restart {number} of {self._restarts} in "
            f"{self._pause:,.0f} s"
        )
        run_folder.note(
            self._folder,
            restart=number,
            of=self._restarts,
            exit_code=code,
            reason=why,
            seconds=round(seconds, 1),
        )

    def _reason(self, code: int) -> str:
        return "DeepSpeed's launcher was killed" if self._is_orphaned else _reason(code)

    def _wait(self) -> bool:
        """Wait before a restart, longer each time; whether nobody has asked to stop meanwhile."""
        end = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        while time.monotonic() < end and not self._requests:
            time.sleep(LOOK)
        return not self._requests


def _as_shells_say(code: int) -> int:
    """DeepSpeed's launch returns -9, that is 247, for a rank that SIGKILL has ended; shells 137."""
    return 128 + 256 - code if 192 < code < 255 else code


def _reason(code: int) -> str:
    if code == errors.RankFailed.exit_code:
        return "a rank ended or hung (exit code 6)"
    if code == 255:
        return "a host was lost (exit code 255)"
    if 128 < code < 192:
        return f"a process was ended by {signal.Signals(code - 128).name}"
    return f"it ended with exit code {code}"
