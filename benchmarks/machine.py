"""What a figure was measured on, and where figures are kept."""

import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "numba", "torch", "deepspeed", "triton", "transformers", "tokenizers")


@cache
def facts() -> dict[str, Any]:
    """Processor, cores, versions, commit, and the GPU where there is one."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpuinfo if "model name" in line), "")
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        **_gpu(),
        # A copy of the tree without git is told its commit.
        "commit": os.environ.get("COMMIT")
        or _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
    }


def save(name: str, rows: list[dict[str, Any]]) -> None:
    """Write benchmarks/results/NAME.json and say so."""
    print(f"\n{write(name, rows)}")


def write(name: str, rows: list[dict[str, Any]], bars: dict[str, str] | None = None) -> Path:
    """Write NAME.json into benchmarks/results, or into the folder that OUT names.

    Args:
        name: of the file.
        rows: the figures.
        bars: what plot.py draws, see there; None for nothing.
    """
    path = Path(os.environ.get("OUT") or ROOT / "benchmarks/results") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": facts(), **({"bars": bars} if bars else {}), "rows": rows}
    beside = path.with_suffix(".tmp")  # who is killed while writing leaves the rows before
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(path)
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {}
    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "driver": _output(
            "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"
        ),
    }


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
