"""The processes of one launch on this host: started, signalled, counted, and none left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from ds_bert import launcher

# Of linux/prctl.h: a signal for a process when its parent ends; to adopt orphans below oneself.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LAUNCH = "deepspeed.launcher.launch"  # DeepSpeed's module that starts the ranks of a host
_NOT_INHERITED = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_libc = ctypes.CDLL(None)


class Tree:
    """DeepSpeed's launcher with these arguments, and all that comes of it on this host.

    It is in a session of its own: a Ctrl-C reaches our process alone, which passes it on. What
    loses its parent becomes our child. If we are killed, DeepSpeed's launcher gets a SIGTERM, which
    it passes on to other hosts; ranks of this host see it themselves (`guards.stop`).
    """

    def __init__(self, arguments: list[str]):
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        inherited = {name: v for name, v in os.environ.items() if name not in _NOT_INHERITED}
        # A host that is lost closes no connection.
        inherited.setdefault(
            "PDSH_SSH_ARGS_APPEND", "-o ServerAliveInterval=15 -o ServerAliveCountMax=4"
        )
        self._codes: list[int] = []
        self._launcher = subprocess.Popen(
            [sys.executable, "-P", "-m", "ds_bert.launching.through_deepspeed", *arguments],
            env={**inherited, launcher.DOOR: str(os.getpid())},
            start_new_session=True,
            preexec_fn=before_exec,
        )

    def poll(self) -> int | None:
        """The exit code of DeepSpeed's launcher, as shells tell it; None: it runs."""
        code = self._launcher.poll()
        if code is None or code >= 0:
            return code
        return 128 - code

    def processes(self) -> list[psutil.Process]:
        """All that live on this host."""
        found = psutil.Process().children(recursive=True)
        return [process for process in found if _status(process) != psutil.STATUS_ZOMBIE]

    def ranks(self) -> list[psutil.Process]:
        """The ranks of this host that live; not what they have started themselves."""
        found = {process.pid: process for process in self.processes() if _has_rank(process)}
        return [process for process in found.values() if _parent(process) not in found]

    def spans_hosts(self) -> bool:
        """Whether ranks are started through pdsh, mpirun or srun, out of reach of our signals."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self._launcher.pid).children()
            started = [_command(child) for child in children]
            return any(command and not _is_local(command) for command in started)
        return False

    def signal(self, number: int, processes: Iterable[psutil.Process] | None = None) -> None:
        """Send a signal to some of the processes, or to all."""
        for process in self.processes() if processes is None else processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def reap(self) -> None:
        """Take the exit codes of orphans that have ended; after DeepSpeed's launcher has."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                code = os.waitstatus_to_exitcode(ended[1])
                self._codes.append(128 - code if code < 0 else code)

    def end_rest(self, seconds: float) -> int:
        """End what has outlived DeepSpeed's launcher: ranks may save before.

        Returns:
            the largest exit code of those that were left; 0 if there were none.
        """
        self.signal(signal.SIGTERM, self.ranks())
        deadline = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
            time.sleep(0.1)
            self.reap()
        self.reap()
        return max(self._codes, default=0)


def before_exec() -> None:
    """In a child that is about to start: it hears of our end, and not of SIGUSR1."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    # Schedulers send it to all processes of a job. It would end the launchers in between; ranks
    # have a handler.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _has_rank(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "RANK" in process.environ()
    return False


def _parent(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return process.ppid()
    return 0


def _status(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return process.status()
    return psutil.STATUS_ZOMBIE


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def _is_local(command: list[str]) -> bool:
    """Whether it is DeepSpeed's launch of one host, or a question to ssh before that."""
    return _LAUNCH in command[:4] or os.path.basename(command[0]) == "ssh"
