"""What all of gpu/ share: the device, the rows, the file they go to and the exit code.

A row has a `case` (the problem) and either an `impl` with its `ms` or a verdict `passed`. Rows are
written as they come, so a run that is cut short leaves what it has. Exit codes: 0, 1 if a check or
an implementation failed, 2 without the device that was asked for.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from threading import Lock
from typing import Any

import torch
from machine import write
from timing import Timing, median_time, peak_memory
from torch import Tensor

_START, _SPARE = time.monotonic(), 10.0  # seconds; the second for imports before this one
COPY_BYTES = {"cuda": 4 << 30, "cpu": 1 << 20}


class Report:
    """The rows of one script.

    Attributes:
        device: where to work.
        smoke: whether tiny sizes are asked for.
        rows: all so far.
    """

    def __init__(self, name: str, bars: dict[str, str], device: torch.device, smoke: bool):
        self.name, self.bars, self.device, self.smoke = name, bars, device, smoke
        self.rows: list[dict[str, Any]] = []
        self._lock = Lock()

    def add(self, line: str, **row: Any) -> None:
        with self._lock:
            self.rows.append(row)
            write(self.name, self.rows, self.bars)
            print(line, flush=True)

    def check(
        self,
        case: str,
        errors: dict[str, float],
        baseline: dict[str, float],
        tolerance: float,
        **holds: bool,
    ) -> None:
        """A check of correctness.

        Args:
            case: what was computed.
            errors: relative errors against float64.
            baseline: those of plain torch in the same dtype.
            tolerance: by which an error may exceed plain torch's.
            holds: further conditions.
        """
        passed = all(errors[key] <= baseline[key] + tolerance for key in errors)
        passed = passed and all(holds.values())
        shown = "  ".join(f"{key} {errors[key]:.1e} ({baseline[key]:.1e})" for key in errors)
        shown += "".join(f"  {key} {'yes' if value else 'NO'}" for key, value in holds.items())
        self.add(
            f"{'ok    ' if passed else 'FAILED'} {case:34} {shown}",
            case=case, errors=errors, errors_of_torch=baseline, tolerance=tolerance, **holds,
            passed=passed,
        )  # fmt: skip

    def time(
        self,
        case: str,
        impl: str,
        function: Callable[[], Any],
        bound_ms: float | None = None,
        flops: float | None = None,
        **facts: Any,
    ) -> Timing | None:
        """Time and peak memory of one implementation; None if it fails.

        Args:
            case: the problem; bars of one case stand together.
            impl: name of the implementation.
            function: one run of it.
            bound_ms: what physics allows; the row then tells the ratio.
            flops: operations of one run; the row then tells them per second.
            facts: further fields of the row.
        """
        try:
            timing = median_time(function, self.device, repeats=1 if self.smoke else None)
            peak = peak_memory(function, self.device)
        except Exception as error:  # the others are still worth measuring
            self.fail(f"{case}, {impl}", error)
            return None
        row = {"ms": timing.median, "ms_p20": timing.p20, "ms_p80": timing.p80}
        line = f"{case:24} {impl:30} {timing.median:9.3f} ms"
        if bound_ms is not None:
            row |= {"bound_ms": bound_ms, "of_bound": timing.median / bound_ms}
            line += f"  {row['of_bound']:6.2f} x bound"
        if flops is not None:
            row["tflops_per_second"] = flops / timing.median / 1e9
            line += f"  {row['tflops_per_second']:6.1f} TFLOP/s"
        if peak is not None:
            line += f"  {peak / 1e6:8.0f} MB"
        self.add(line, case=case, impl=impl, **row, peak_bytes=peak, **facts)
        return timing

    def skip(self, case: str, impl: str, reason: str) -> None:
        self.add(f"{case:24} {impl:30} skipped: {reason}", case=case, impl=impl, skipped=reason)

    def fail(self, case: str, error: Exception) -> None:
        traceback.print_exception(error)
        self.add(f"FAILED {case}: {error!r}", case=case, error=repr(error), passed=False)

    def attempt(self, case: str, function: Callable[..., Any], *args: Any) -> None:
        """Call a function; what it raises fails the run but does not end it."""
        try:
            function(*args)
        except Exception as error:
            self.fail(case, error)

    def finish(self) -> int:
        """The exit code."""
        verdicts = [row["passed"] for row in self.rows if "passed" in row]
        path = write(self.name, self.rows, self.bars)
        print(f"{path}: {sum(verdicts)} of {len(verdicts)} checks passed\n", flush=True)
        return 0 if all(verdicts) else 1


def seconds_left() -> float:
    """Until gpu_suite kills this process, with a little to spare; for ever without it."""
    return float(os.environ.get("LIMIT_SECONDS", "inf")) - time.monotonic() + _START - _SPARE


def copy_speed(device: torch.device) -> float:
    """Bytes per second, read and written, of a large copy."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    timing = median_time(lambda: target.copy_(source), device)
    return 2 * source.nbytes / timing.median * 1e3


def relative_errors(
    names: Iterable[str], found: Iterable[Tensor], exact: Iterable[Tensor]
) -> dict[str, float]:
    """Norms of the differences over those of the exact tensors, which are in a fine dtype."""
    return {
        name: float((one.double() - other).norm() / other.norm())
        for name, one, other in zip(names, found, exact, strict=True)
    }


def require(*packages: str) -> None:
    """Exit with 2 and a line where a package is missing; call it before what imports them."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        _refuse(
            f"found no package {', '.join(missing)}, expected it; see benchmarks/gpu_suite/needs.py"
        )


def start(name: str, description: str, bars: dict[str, str]) -> Report:
    """Read the command line and find the device; exits with 2 where there is none."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="tiny sizes on the CPU, to try the script; its times mean nothing. Set "
        "TRITON_INTERPRET=1 and OUT=FOLDER with it",
    )
    smoke = parser.parse_args().smoke
    interpreted = os.environ.get("TRITON_INTERPRET", "0") == "1"
    if not smoke and not torch.cuda.is_available():
        _refuse(f"found torch {torch.__version__} without a CUDA device, expected one; try --smoke")
    if smoke != interpreted:
        _refuse(
            f"found TRITON_INTERPRET={int(interpreted)}, expected {int(smoke)} "
            f"{'with' if smoke else 'without'} --smoke; set it"
        )
    if smoke:
        # Threads that wait for each other cost more than tiny sizes; ds_bert reads the variable.
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
    torch.manual_seed(1)
    return Report(name, bars, torch.device("cpu" if smoke else "cuda"), smoke)


def _refuse(problem: str) -> None:
    print(problem, file=sys.stderr)
    sys.exit(2)
