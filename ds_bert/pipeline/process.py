"""A stage as a process: the command that a user would call; signals in, exit codes out."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ds_bert import launcher
from ds_bert.errors import INTERRUPTED, STOPPED_ON_REQUEST, ConfigurationError
from ds_bert.launching.tree import before_exec

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
_CALL = "from ds_bert.commands.main import run; run()"
_LOOK = 0.05  # seconds
_ONE_REQUEST = 2.0  # seconds; within them the same may be asked twice


class Runner:
    """Runs one command after the other, until somebody asks to stop.

    Attributes:
        is_asked: whether somebody has.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._child: subprocess.Popen[bytes] | None = None
        self._last = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Pass signals on while entered."""
        heard = [kind for kind in SIGNALS if signal.getsignal(kind) != signal.SIG_IGN]  # nohup
        before = [signal.signal(kind, self._hear) for kind in heard]
        try:
            yield
        finally:
            for kind, handler in zip(heard, before, strict=True):
                signal.signal(kind, handler)

    def run(self, arguments: Sequence[str], is_enough: Callable[[], bool] = lambda: False) -> int:
        """Run `ds-bert` with these arguments to its end.

        Args:
            arguments: the command's name and its own.
            is_enough: asked again and again; once it is true, the command is asked to stop.

        Returns:
            its exit code, as shells tell it; 75 where it ended because somebody asked to stop.
        """
        if self.is_asked:
            return STOPPED_ON_REQUEST
        inherited = {k: v for k, v in os.environ.items() if k not in launcher.VARIABLES}
        command = [sys.executable, "-P", "-c", _CALL, *arguments]
        sys.stdout.flush()
        # In a session of its own a Ctrl-C reaches us alone, and it gets one signal.
        self._child = subprocess.Popen(
            command, env=inherited, start_new_session=True, preexec_fn=before_exec
        )
        if self.is_asked:  # while it was started
            self._ask()
        is_told = False
        while (code := self._child.poll()) is None:
            if not is_told and is_enough():
                is_told = True
                self._ask()
            time.sleep(_LOOK)
        code = 128 - code if code < 0 else code
        is_stopped = self.is_asked and code in (INTERRUPTED, 128 + signal.SIGTERM)
        return STOPPED_ON_REQUEST if is_stopped else code

    def _hear(self, *_: Any) -> None:
        now = time.monotonic()
        if self.is_asked and now - self._last < _ONE_REQUEST:
            return
        self.is_asked, self._last = True, now
        self._ask()

    def _ask(self) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.send_signal(signal.SIGTERM)


def check_launch(hostfile: str | None, num_gpus: int | None) -> list[str]:
    """The arguments of `ds-bert` that train: alone, or through the launcher.

    Raises:
        ConfigurationError: the number makes no sense.
    """
    if num_gpus is not None and num_gpus < 1:
        raise ConfigurationError(f"--num_gpus: found {num_gpus}, expected at least 1")
    where = [] if hostfile is None else ["--hostfile", hostfile]
    if num_gpus is None and hostfile is None:
        num_gpus = _num_gpus()
    if num_gpus is not None and (num_gpus > 1 or where):
        where += ["--num_accelerators", str(num_gpus)]
    return ["launch", *where, "--module", "ds_bert.train"] if where else ["train"]


def _num_gpus() -> int:
    import torch  # takes seconds

    return max(1, torch.cuda.device_count())
