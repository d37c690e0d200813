"""Training in a process of its own that starts in a tenth of a second: forked with all imported."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from distributed_util import PRELOAD

from ds_bert import errors

TIMEOUT = 180.0  # seconds until a process that hangs is killed


class Warm:
    """A process of train.py, for tests that need one to kill, to signal, or with ranks of its own.

    It starts as train.py does once that has imported what it needs. Methods are those of
    subprocess.Popen.

    Args:
        arguments: of train.py.
        cwd: the folder to run in.
        env: the process's environment.

    Attributes:
        stdout: what it prints to either stream.
    """

    def __init__(self, arguments: list, cwd: Path, env: Mapping[str, str]):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        reader, writer = context.Pipe(duplex=False)
        arguments = [str(argument) for argument in arguments]
        arguments = (arguments, str(cwd), dict(env), writer)
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float = TIMEOUT) -> tuple[str, None]:
        timer = threading.Timer(timeout, self._process.kill)
        timer.start()
        with self.stdout:
            text = self.stdout.read()
        self._process.join()
        timer.cancel()
        return text, None


def _run(arguments: list[str], cwd: str, env: dict[str, str], output) -> None:
    from ds_bert.commands.train import main

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", 1, closefd=False) for stream in (1, 2))
    errors.exit_with(lambda: main(arguments, "train.py"))
