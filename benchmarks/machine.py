"""What a figure was measured on, and where figures are kept."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "numba", "torch", "transformers", "tokenizers")


def facts() -> dict[str, Any]:
    """Processor, cores, versions and commit."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpuinfo if "model name" in line), "")
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip(),
    }


def save(name: str, rows: list[dict[str, Any]]) -> None:
    """Write benchmarks/results/NAME.json."""
    path = ROOT / "benchmarks/results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": facts(), "rows": rows}, indent=1) + "\n")
    print(f"\n{path.relative_to(ROOT)}")
