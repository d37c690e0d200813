"""DeepSpeed's launcher as a process of its own, with an exit code that can be trusted.

DeepSpeed 0.19.8 (launcher/runner.py) returns 0 where a signal has ended what it had started, and
shows a traceback for a bad host file. Started by `tree`, with DeepSpeed's arguments.
"""

import subprocess
from types import SimpleNamespace
from typing import Any

from deepspeed.launcher import runner

from ds_bert.errors import ConfigurationError, RankFailed, exit_with


class _Remembered(subprocess.Popen):
    """Popen, and which one was the last."""

    last: "_Remembered | None" = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        _Remembered.last = self


def main() -> int:
    """Launch; returns the exit code of `deepspeed.launcher.launch`, pdsh, mpirun or srun.

    Raises:
        ConfigurationError: arguments or a host file that DeepSpeed does not take.
        RankFailed: a host, or the program that reaches it, is not there.
    """
    runner.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": _Remembered})
    try:
        runner.main()
    except (ValueError, AssertionError) as error:
        raise ConfigurationError(f"deepspeed: {error}") from None
    except (RuntimeError, subprocess.CalledProcessError) as error:
        raise RankFailed(f"deepspeed: {error}") from None
    code = _Remembered.last.returncode if _Remembered.last is not None else 0
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    exit_with(main)
