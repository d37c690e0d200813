"""The GPUs of this machine as nvidia-smi tells of them, without loading CUDA.

Sources: nvidia-smi --help-query-gpu, --help-query-compute-apps, --help-query-remapped-rows; NVIDIA,
"XID errors" (what the driver writes into the kernel's log).
"""

import re
import shutil
import subprocess
from typing import Any

_SECONDS = 15
_GPU = ("uuid", "index", "name", "driver_version", "memory.total", "memory.used")
_ECC = "ecc.errors.uncorrected.volatile.total"
_ROWS = ("gpu_uuid", "remapped_rows.pending", "remapped_rows.failure")
_APPS = ("gpu_uuid", "pid", "process_name", "used_memory")
_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)")


def gpus() -> dict[str, Any] | None:
    """What there is, or None on a machine without nvidia-smi.

    Returns:
        "gpus": for each index, name, driver, memory_used and memory_total (MiB), processes (names
        with numbers), faults (sentences); "xid": faults of the kernel's log, None where it may not
        be read. Or "error": why nvidia-smi says nothing.
    """
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        rows = _query("gpu", (*_GPU, _ECC))
        apps, remapped = _query("compute-apps", _APPS), _query("remapped-rows", _ROWS, False)
    except subprocess.TimeoutExpired:
        return {"error": f"nvidia-smi did not answer within {_SECONDS} s"}
    except (OSError, subprocess.CalledProcessError) as error:
        text = getattr(error, "stdout", None) or str(error)
        return {"error": f"nvidia-smi fails: {text.strip().splitlines()[-1]}"}
    return {"gpus": [_gpu(row, apps, remapped) for row in rows], "xid": _xid()}


def _query(what: str, fields: tuple[str, ...], is_needed: bool = True) -> list[list[str]]:
    """Rows of a query; old drivers and cards do not know all of them."""
    command = ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=_SECONDS, check=is_needed
    )
    return rows(result.stdout, len(fields)) if result.returncode == 0 else []


def rows(text: str, width: int) -> list[list[str]]:
    """The lines of nvidia-smi's csv; commas within a process's name are kept in it."""
    split = ([cell.strip() for cell in line.split(",")] for line in text.splitlines())
    return [cells for cells in split if len(cells) >= width]


def _gpu(row: list[str], apps: list[list[str]], remapped: list[list[str]]) -> dict[str, Any]:
    uuid, index, name, driver, total, used, *ecc = row
    faults = [f"{ecc[0]} uncorrected ECC errors"] if _number(ecc[0]) else []
    for _, pending, failure in (cells for cells in remapped if cells[0] == uuid):
        if pending == "Yes" or _number(pending):
            faults.append("memory rows wait for a reset to be replaced")
        if failure == "Yes" or _number(failure):
            faults.append("memory rows could not be replaced")
    processes = [f"{','.join(cells[2:-1])} ({cells[1]})" for cells in apps if cells[0] == uuid]
    return {
        "index": _number(index),
        "name": name,
        "driver": driver,
        "memory_total": _number(total),
        "memory_used": _number(used),
        "processes": processes,
        "faults": faults,
    }


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0  # [N/A], [Not Supported]


def _xid() -> list[str] | None:
    """Faults that the driver wrote into the kernel's log since the machine was started."""
    try:
        result = subprocess.run(
            ["dmesg"], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return [f"Xid {number} of {place}" for place, number in _XID.findall(result.stdout)]
