"""One connection to each host, through ssh or to this machine, and what is asked over it."""

import json
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from ds_bert.preflight.probe import MARK

_PROBE = ("-m", "ds_bert.preflight.probe")
_CONNECT = 10  # seconds
_ASKED = 3  # times for the clock; the quickest answer counts


def here() -> list[str]:
    """The command that starts a probe on this machine."""
    return [sys.executable, *_PROBE]


def over_ssh(name: str, port: int | None = None) -> list[str]:
    """The command that starts a probe on another one: same folder, same Python, as DeepSpeed does.

    Args:
        name: of the host; checked by `hostfile.read_hostfile`.
        port: of its ssh server.
    """
    path = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH", ""))))
    words = ["exec", "env", f"PYTHONPATH={path}", sys.executable, *_PROBE]
    remote = f"cd {shlex.quote(os.getcwd())} && {shlex.join(words)}"
    options = ["BatchMode=yes", f"ConnectTimeout={_CONNECT}", "ServerAliveInterval=5"]
    flags = [word for option in options for word in ("-o", option)]
    return ["ssh", "-T", *flags, *(("-p", str(port)) if port else ()), "--", name, remote]


class NoAnswer(Exception):
    """A host does not answer; the reason for a person."""


class Host:
    """A probe on one host, started at once.

    Args:
        name: of the host.
        command: starts the probe, with its input and output here.
    """

    def __init__(self, name: str, command: list[str]):
        self.name = name
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
            )
        except OSError as error:
            raise NoAnswer(f"{command[0]}: {error.strerror}") from None
        self._answers: queue.Queue[tuple[float, str] | None] = queue.Queue()
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)
        ]
        for thread in self._readers:
            thread.start()

    def _read(self) -> None:
        for line in _stream(self._process.stdout):
            if line.startswith(MARK):
                self._answers.put((time.time(), line.removeprefix(MARK)))
        self._answers.put(None)

    def _read_errors(self) -> None:
        self._errors += (line.strip() for line in _stream(self._process.stderr) if line.strip())

    def ask(self, question: str, **arguments: Any) -> None:
        """Ask without waiting; see `probe.Probe`."""
        with suppress(OSError):  # it has gone: `answer` says why
            _stream(self._process.stdin).write(json.dumps({"ask": question, **arguments}) + "\n")
            _stream(self._process.stdin).flush()

    def answer(self, deadline: float) -> Any:
        """The answer to the oldest question.

        Args:
            deadline: by `time.monotonic`.

        Raises:
            NoAnswer: none came by then, or the connection has ended.
        """
        return json.loads(self._next(deadline)[1])

    def _next(self, deadline: float) -> tuple[float, str]:
        try:
            found = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise NoAnswer("no answer in time") from None
        if found is None:
            self._answers.put(None)  # for later questions
            raise NoAnswer(self._why_gone())
        return found

    def _why_gone(self) -> str:
        code = self._process.wait()
        self._readers[1].join(1)
        last = self._errors[-1] if self._errors else f"ended with {code}"
        if code == 255:  # ssh's own failures
            return f"{last}; `ssh {self.name} true` has to work without a question"
        return f"{last}; folder, Python and ds_bert have to be there under the same paths"

    def clock(self, deadline: float) -> tuple[float, float]:
        """How far its clock is ahead of this one, and half the time of an answer, in seconds."""
        best = (0.0, float("inf"))
        for _ in range(_ASKED):
            begin = time.time()
            self.ask("clock")
            end, text = self._next(deadline)
            ahead = json.loads(text)["time"] - (begin + end) / 2
            best = min(best, (ahead, (end - begin) / 2), key=lambda found: found[1])
        return best

    def end(self) -> None:
        """Close the connection; the probe ends with it."""
        with suppress(OSError):
            _stream(self._process.stdin).close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def ask_all(
    hosts: Mapping[str, Host], seconds: float, question: str, **arguments: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Ask all hosts at once.

    Returns:
        answers and, of those who do not answer within the seconds, reasons; by host.
    """
    for host in hosts.values():
        host.ask(question, **arguments)
    return collect(hosts, time.monotonic() + seconds)


def collect(hosts: Mapping[str, Host], deadline: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Answers to the oldest question of each host; see `ask_all`."""
    answers, reasons = {}, {}
    for name, host in hosts.items():
        try:
            answers[name] = host.answer(deadline)
        except NoAnswer as reason:
            reasons[name] = str(reason)
    return answers, reasons
