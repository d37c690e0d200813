"""The ranks of this host in a rehearsal of the run's start (`ds_bert.guards.all_reduce`)."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import IO, Any

_LONGEST = 300  # characters of an error


class Ranks:
    """Processes started as DeepSpeed starts them.

    Args:
        first: rank of the first one.
        slots: how many on this host.
        world_size: how many on all hosts.
        address: of rank 0.
        port: the same.
        seconds: that they wait for each other.
        environment: further variables.
    """

    def __init__(
        self,
        first: int,
        slots: int,
        world_size: int,
        address: str,
        port: int,
        seconds: float,
        environment: dict[str, str],
    ):
        self._first, self._files = first, [_files() for _ in range(slots)]
        shared = os.environ | environment
        shared |= {
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(slots),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "DS_BERT_SECONDS": str(seconds),
        }
        command = [sys.executable, "-m", "ds_bert.guards.all_reduce"]
        self._processes = [
            subprocess.Popen(
                command,
                env=shared | {"RANK": str(first + local), "LOCAL_RANK": str(local)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            for local, (out, err) in enumerate(self._files)
        ]

    def look(self) -> dict[str, bool]:
        """Whether all have "ended", and one of them has "failed"."""
        codes = [process.poll() for process in self._processes]
        return {"ended": None not in codes, "failed": any(codes)}

    def end(self) -> list[dict[str, Any]]:
        """How far each came: "rank", what it told last, "error": its last line if it failed."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        both = zip(self._processes, self._files, strict=True)
        told = [_told(files) | _error(process, files[1]) for process, files in both]
        return [{"rank": self._first + local} | rest for local, rest in enumerate(told)]


def _files() -> tuple[IO[str], IO[str]]:
    return tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")


def _told(files: tuple[IO[str], IO[str]]) -> dict[str, Any]:
    """All that a rank has said, later values over earlier ones."""
    files[0].seek(0)
    told: dict[str, Any] = {"stage": "none"}
    for line in files[0]:
        with suppress(ValueError):
            told |= json.loads(line)
    return told


def _error(process: "subprocess.Popen[bytes]", file: IO[str]) -> dict[str, str]:
    if not process.returncode:
        return {}
    file.seek(0)
    lines = [line.strip() for line in file if line.strip()]
    return {"error": lines[-1][:_LONGEST] if lines and process.returncode > 0 else ""}
