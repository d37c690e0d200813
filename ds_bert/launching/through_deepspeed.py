"""DeepSpeed's launcher as a process of its own: quiet, with an exit code that can be trusted.

DeepSpeed 0.19.8 (launcher/runner.py) returns 0 where a signal has ended what it had started, shows
a traceback for a bad host file, and to end its ranks on other hosts it ends every launch there of
the same Python. Started by `tree`, with DeepSpeed's arguments.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ds_bert.errors import ConfigurationError, RankFailed, exit_with

logging.disable(logging.WARNING)  # DeepSpeed says at its import which device it has found
from deepspeed.launcher import runner  # noqa: E402
from deepspeed.launcher.multinode_runner import PDSHRunner  # noqa: E402


class _Remembered(subprocess.Popen):
    """Popen, and which one was the last."""

    last: "_Remembered | None" = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        _Remembered.last = self


class _Pdsh(PDSHRunner):
    """Through pdsh; ends this launch alone, known by its hosts and port."""

    def get_cmd(self, environment: Any, active_resources: Any) -> Any:
        command, _, environment = super().get_cmd(environment, active_resources)
        if self.args.quiet:
            port = command.index(f"--master_port={self.args.master_port}")
            command.insert(port + 1, "--quiet")
        # From its start, and in brackets: neither ssh nor the shell that runs pkill is found.
        own = f"^[^ ]* -u -m deepspeed.launcher.launch --[w]orld_info={self.world_info_base64} "
        pattern = f"'{own}.*--master_port={self.args.master_port} '"
        kill = [*command[: command.index("-w") + 2], "pkill", "-f", pattern]
        return command, kill, environment


def _quiet(parse: Callable[..., Any]) -> Callable[..., Any]:
    """DeepSpeed's parser, with errors alone as what is logged; unless --log_level asks for more."""

    def parsed(arguments: list[str] | None = None) -> Any:
        options = parse(arguments)
        options.quiet = options.quiet or options.log_level == "info"  # the default
        return options

    return parsed


def main() -> int:
    """Launch; returns the exit code of `deepspeed.launcher.launch`, pdsh, mpirun or srun.

    Raises:
        ConfigurationError: arguments or a host file that DeepSpeed does not take.
        RankFailed: a host, or the program that reaches it, is not there.
    """
    runner.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": _Remembered})
    runner.PDSHRunner = _Pdsh
    runner.parse_args = _quiet(runner.parse_args)
    logging.disable(logging.NOTSET)
    torch = sys.modules.get("torch")  # as ds_bert.distributed does; the ranks' launcher is quiet
    if torch is not None and not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
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
