"""Commands, and all processes that come of them: known by a mark in their environment.

A process group or a session would lose those that make one of their own, as launchers do.
"""

import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

MESSAGE = re.compile(r"^(\S+: )?error: ")
EXCEPTION = re.compile(r"^(\[rank\d+\]: )?[\w.]*(Error|Exception|Interrupt)\b")
MARK = "DS_BERT_TORTURE_MARK"
POLL = 0.002  # seconds between two looks at a run
PATIENCE = 120.0  # seconds that anything may take before it counts as hanging
# A run has to have these from its own launcher, whatever started us.
NOT_INHERITED = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


class Bad(Exception):
    """Something is not as promised; says what."""


@dataclass
class Command:
    """What to start.

    Attributes:
        arguments: the command line.
        folder: to start it in.
        output: file for what it prints, stdout and stderr.
        environment: beside that of this process.
    """

    arguments: list[str]
    folder: Path
    output: Path
    environment: dict[str, str] = field(default_factory=dict)


class Job:
    """One command, or one for each rank, and everything that they start.

    Attributes:
        commands: what was started.
        started: when (time.monotonic).
        struck: when the fault was injected; None: not yet.
        victims: numbers of the commands that were killed on purpose.
    """

    def __init__(self, commands: list[Command]) -> None:
        self.commands = commands
        self.started = time.monotonic()
        self.struck: float | None = None
        self.victims: set[int] = set()
        self._mark = secrets.token_hex(8)
        self._processes = [self._start(command) for command in commands]

    def _start(self, command: Command) -> subprocess.Popen:
        command.output.parent.mkdir(parents=True, exist_ok=True)
        inherited = {name: v for name, v in os.environ.items() if name not in NOT_INHERITED}
        with open(command.output, "wb") as output:
            return subprocess.Popen(
                command.arguments,
                cwd=command.folder,
                env={**inherited, **command.environment, MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """All that was printed so far."""
        outputs = (command.output for command in self.commands)
        return "".join(path.read_bytes().decode("utf-8", "replace") for path in outputs)

    @property
    def is_running(self) -> bool:
        """Whether none of the commands has ended."""
        return all(process.poll() is None for process in self._processes)

    @property
    def is_any_left(self) -> bool:
        """Whether any process is left, of whatever kind."""
        return bool(self._left())

    @property
    def codes(self) -> list[int]:
        """Exit code of each command, -9 for one that SIGKILL ended; waits for them."""
        return [process.wait() for process in self._processes]

    def wait_until(self, happens: Callable[[], object], what: str) -> None:
        """Wait for a moment of the run.

        Raises:
            Bad: the run ended before, or it takes too long.
        """
        deadline = time.monotonic() + PATIENCE
        while not happens():
            if not self.is_running and not happens():
                self.kill_all()
                raise Bad(f"ended before the moment for the fault ({what}): {reason(self.text)}")
            if time.monotonic() > deadline:
                self.kill_all()
                raise Bad(f"no {what} within {PATIENCE:.0f} s")
            time.sleep(POLL)

    def wait_for_line(self, words: str) -> None:
        """Wait until something is printed."""
        self.wait_until(lambda: words in self.text, f'line "{words}"')

    def rank(self, rank: int) -> int:
        """The process of a rank: the oldest of those that carry its number."""
        if len(self._processes) > 1:
            return self._processes[rank].pid
        number = f"RANK={rank}".encode()
        found = [pid for pid, names in living(self._mark).items() if number in names]
        if not found:
            raise Bad(f"there is no process of rank {rank}")
        return min(found, key=_age)

    def launcher(self, words: str = "") -> int:
        """The process of the command itself, or of its child with these words in its command."""
        if not words:
            return self._processes[0].pid
        for pid in living(self._mark):
            if words.encode() in _read(pid, "cmdline"):
                return pid
        raise Bad(f"there is no process {words}")

    def signal(self, number: signal.Signals, *pids: int) -> None:
        """Send a signal to some processes, or to all: this is the fault."""
        if number in (signal.SIGKILL, signal.SIGSTOP):
            started = [process.pid for process in self._processes]
            self.victims |= {n for n, pid in enumerate(started) if not pids or pid in pids}
        self.struck = time.monotonic()
        for pid in pids or living(self._mark):
            with suppress(ProcessLookupError):  # then the exit code will tell
                os.kill(pid, number)

    def strike(self) -> None:
        """Note that the fault happens now."""
        self.struck = time.monotonic()

    def end(self, limit: float = PATIENCE) -> float:
        """Wait until no process is left; returns seconds since the fault, or since the start.

        Raises:
            Bad: some were left, and have been killed.
        """
        since = self.struck or self.started
        deadline = time.monotonic() + limit
        while left := self._left():
            if time.monotonic() > deadline:
                self.kill_all()
                raise Bad(f"{len(left)} processes were left after {limit:.0f} s")
            time.sleep(0.02)
        return time.monotonic() - since

    def _left(self) -> dict[int, list[bytes]]:
        # Polls, which takes the zombies away. One that has not begun its program has no mark yet.
        own = {process.pid: [] for process in self._processes if process.poll() is None}
        return own | living(self._mark)

    def kill_all(self) -> int:
        """End every process of this job, also stopped ones; returns how many there were."""
        number = len(self._left())
        while left := self._left():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for process in self._processes:
            process.wait()
        return number


def living(mark: str) -> dict[int, list[bytes]]:
    """The environments of all living processes with a mark, by number."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            names = _read(int(entry), "environ").split(b"\0")
            if wanted in names:
                found[int(entry)] = names
    return found


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended, or is not ours
        return b""


def _age(pid: int) -> int:
    """Clock ticks from the machine's start to that of a process (field 22 of its stat)."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[19]) if fields else 1 << 62


def reason(text: str) -> str:
    """The line that says why a command ended: its message, or an exception; "" if there is none."""
    lines = [line.strip() for line in text.splitlines()]
    for pattern in (MESSAGE, EXCEPTION):
        if found := [line for line in lines if pattern.search(line)]:
            return found[0]
    return ""


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
