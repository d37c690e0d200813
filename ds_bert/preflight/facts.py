"""What a host tells of itself, as plain JSON values. Nothing is judged here."""

import os
import platform
import resource
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ds_bert import __version__, files, recipes
from ds_bert.dataset.store import TokenStore
from ds_bert.errors import ConfigurationError, DataError, UserError
from ds_bert.preflight import gpus, software
from ds_bert.staging.local_copy import require_room

SHARED_MEMORY = Path("/dev/shm")


def facts(
    recipe: str | None, data: dict[str, str], length: int, output_dir: str, local_data: str = ""
) -> dict[str, Any]:
    """All that can be told without another host.

    Args:
        recipe: as the user names it, or None.
        data: folders of data sets by the names of their settings.
        length: max_seq_length.
        output_dir: of the run.
        local_data: where the data will be copied to, or "".

    Returns:
        values by name; {"error": sentence} in the place of one that cannot be had.
    """
    return {
        "hostname": socket.gethostname(),
        "python": platform.python_version(),
        "packages": software.packages(),
        "ds_bert": f"{__version__}, sources {software.hash_of_sources()}",
        "commit": software.commit(),
        "recipe": _or_error(_recipe, recipe) if recipe else None,
        "data": {name: _or_error(_data, at, length, local_data) for name, at in data.items()},
        "output_dir": disk(Path(output_dir)),
        "cache": disk(files.cache_folder()),
        **limits(),
        "addresses": addresses(),
        "gpus": gpus.gpus(),
        "cores": len(os.sched_getaffinity(0)),
    }


def _or_error(call: Callable[..., str], *about: Any) -> Any:
    try:
        return call(*about)
    except (UserError, OSError) as error:
        return {"error": str(error)}


def _recipe(name: str) -> str:
    try:
        return files.hash_file(recipes.find(name))
    except ConfigurationError:  # its message lists all that there are
        raise DataError(f"no {name}") from None


def _data(folder: str, length: int, local_data: str) -> str:
    """The fingerprint of a data set whose files all have their sizes, and room for a copy."""
    if local_data:
        require_room(Path(folder), length, local_data)
    return TokenStore.open(folder).instances(length).store.fingerprint


def limits() -> dict[str, Any]:
    """Free shared memory in bytes (None: no such file system) and how many files may be open."""
    room = os.statvfs(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None
    return {
        "shared_memory": room.f_bavail * room.f_frsize if room else None,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def disk(folder: Path) -> dict[str, Any]:
    """Where a folder is or would be made: whether it can be written, free bytes and inodes."""
    absolute = folder.absolute()
    existing = next(p for p in (absolute, *absolute.parents) if p.exists() or p.is_symlink())
    try:
        room = os.statvfs(existing)
    except OSError as error:
        return {"error": f"{existing}: {error.strerror}"}
    return {
        "folder": str(folder),
        "is_writable": existing.is_dir() and os.access(existing, os.W_OK),
        "free": room.f_bavail * room.f_frsize,
        "free_inodes": room.f_favail if room.f_files else None,  # some file systems count none
    }


def addresses() -> list[list[str]]:
    """Pairs of interface and address, in the order in which DeepSpeed would choose.

    DeepSpeed takes the first word of `hostname -I` on the first host for MASTER_ADDR.
    """
    interfaces = {
        address.address.partition("%")[0]: interface
        for interface, found in psutil.net_if_addrs().items()
        for address in found
        if address.family in (socket.AF_INET, socket.AF_INET6)
    }
    try:
        result = subprocess.run(["hostname", "-I"], capture_output=True, text=True, timeout=10)
        order = result.stdout.split()
    except (OSError, subprocess.SubprocessError):
        order = []
    order += [a for a in interfaces if a not in order and not a.startswith(("127.", "::1", "fe80"))]
    return [[interfaces.get(address, "?"), address] for address in order]
