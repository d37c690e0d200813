"""What a part of the suite needs, and what of that is missing: found by importing it.

Metadata would not do: a pydantic beside the wrong pydantic-core, or a numba that refuses a newer
numpy, are installed all right and cannot be imported.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

CUDA, COMPILER = "a CUDA device", "a C compiler (triton)"
MARK = "missing packages: "  # of the line that tells
PATIENCE = 90  # seconds for all imports
COMPLETE = {"torch", "triton", "transformers", "pytest"}  # come with all that they need
# Everything that is imported besides, with what each imports in turn, which has to come first.
# By the names that Python knows; wheels spell _ as - and cpuinfo as py-cpuinfo. `--check` hides
# all other packages, so it fails where this list lacks one.
PACKAGES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("numpy", "torch", "triton", "transformers", "pytest"), ()),
    **dict.fromkeys(("safetensors", "tqdm", "packaging", "psutil", "xxhash", "llvmlite"), ()),
    **dict.fromkeys(("typing_extensions", "hjson", "msgpack", "einops", "cpuinfo"), ()),
    **dict.fromkeys(("annotated_types", "pydantic_core"), ()),
    "numba": ("llvmlite", "numpy"),
    "typing_inspection": ("typing_extensions",),
    "pydantic": ("typing_extensions", "annotated_types", "typing_inspection", "pydantic_core"),
    "deepspeed": (
        *("torch", "numpy", "tqdm", "packaging", "psutil", "hjson", "msgpack", "einops"),
        *("cpuinfo", "pydantic"),
    ),
}
WHEELS = {"cpuinfo": "py-cpuinfo"}


def wheel(package: str) -> str:
    """The name of a package at an index."""
    return WHEELS.get(package, package.replace("_", "-"))


def with_needs(*packages: str) -> tuple[str, ...]:
    """Packages with all that they need, what is needed first."""
    found: dict[str, None] = {}
    for package in packages:
        found |= dict.fromkeys((*with_needs(*PACKAGES[package]), package))
    return tuple(found)


def probe(environment: dict[str, str]) -> dict[str, str]:
    """What is missing and why, told by a process of its own; empty if nothing is.

    Args:
        environment: of the parts.
    """
    command = [sys.executable, str(Path(__file__).resolve())]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        # Packages may print something before and, when Python ends, after it.
        line = next(line for line in done.stdout.splitlines() if line.startswith(MARK))
        missing = json.loads(line.removeprefix(MARK))
    except subprocess.TimeoutExpired:
        return {"torch": f"imports took more than {PATIENCE} s"}
    except StopIteration:
        return {"torch": f"the imports ended Python (exit code {done.returncode}): {done.stderr}"}
    return missing


def _missing() -> dict[str, str]:
    missing: dict[str, str] = {}
    for package in with_needs(*PACKAGES):
        needs = [need for need in PACKAGES[package] if need in missing]
        problem = f"needs {wheel(needs[0])}" if needs else _import(package)
        if problem:
            missing[package] = problem
    if os.environ.get("DS_ACCELERATOR") != "cpu":
        missing |= _missing_for_a_gpu("torch" in missing)
    return missing


def _import(package: str) -> str | None:
    """Why it cannot be imported, in one line; None if it can."""
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        return "not found" if error.name == package else str(error)
    except Exception as error:  # wrong pairs raise SystemError and others
        return str(error).strip().split("\n")[0]
    return None


def _missing_for_a_gpu(without_torch: bool) -> dict[str, str]:
    missing = {}
    if without_torch:
        missing[CUDA] = "needs torch"
    else:
        import torch

        if not torch.cuda.is_available():
            missing[CUDA] = f"torch {torch.__version__} sees none"
    # As triton looks for one, to build what launches its kernels.
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        missing[COMPILER] = "found neither CC nor gcc nor clang"
    return missing


if __name__ == "__main__":
    print(f"\n{MARK}{json.dumps(_missing())}")
