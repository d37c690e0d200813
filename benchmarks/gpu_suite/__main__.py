"""Tests and benchmarks that need a GPU, in one call of less than ten minutes.

    benchmarks/gpu.sh                        all parts, the most important first
    benchmarks/gpu.sh --parts products lamb  these, in that order
    benchmarks/gpu.sh --plan                 what would run, for how long, and what if it fails
    benchmarks/gpu.sh --check                that every part starts: tiny sizes on a CPU

The first line says what is missing and which parts cannot run without it. Results go to
benchmarks/results, or to the folder that OUT names (there, without charts): one file a part,
rewritten row by row, and gpu.log. PYTHON names the interpreter, COMMIT the commit where the tree is
a copy without git. ds_bert is found in this tree. Exit code: 0 if all parts ran and all their
checks passed, else 1.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

import only_needed
from needs import COMPLETE, PACKAGES, probe, wheel
from parts import DEADLINE, LEAST, PARTS, ROOT, Part, limit_of, missing_for, plan
from processes import NOT_RUN, OK, OUT_OF_TIME, Outcome, run, say

START = time.monotonic()


def environment(packages: Path, output: Path, is_check: bool) -> dict[str, str]:
    """Of all parts: this tree's ds_bert and kernels, the output folder, the device."""
    (packages / "ds_bert_kernels").symlink_to(ROOT / "kernels")
    (packages / "ds_bert").symlink_to(ROOT / "ds_bert")
    path = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {
        "OUT": str(output),
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TRITON_INTERPRET": "1" if is_check else "0",
        "DS_ACCELERATOR": "cpu" if is_check else "cuda",  # tests/conftest.py would choose the CPU
    }
    if is_check:
        (packages / "sitecustomize.py").symlink_to(Path(only_needed.__file__))
        own |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        needed = {"ds_bert", *map(wheel, PACKAGES)}
        own[only_needed.LISTED] = " ".join(only_needed.hidden(needed, COMPLETE))
    else:  # arms of many sizes come and go in one process
        own["PYTORCH_ALLOC_CONF"] = os.environ.get("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    return os.environ | own


def first_line(missing: dict[str, str], parts: list[Part]) -> str:
    """What is missing, and which parts cannot run."""
    if not missing:
        return "missing: nothing; all parts can run"
    found = ", ".join(f"{wheel(name)} ({why})" for name, why in missing.items())
    stopped = [part.name for part in parts if missing_for(part, missing)]
    others = {part.name for part in parts} - {*stopped}
    line = f"missing: {found}; cannot run: {', '.join(stopped) or 'nothing'}"
    if "deepspeed" in missing and "steps" in others:
        line += "; steps: without DeepSpeed, on PlainEngine of engines.py"
    return line


def run_parts(
    parts: list[Part], variables: dict[str, str], is_check: bool, seconds: float, log: TextIO
) -> list[Outcome]:
    """Run what can run, one after the other, each within the time that is left for it."""
    missing = probe(variables)
    say(first_line(missing, parts), log)
    outcomes = []
    for number, part in enumerate(parts):
        left = seconds - (time.monotonic() - START)
        limit = limit_of(part, parts[number + 1 :], left)
        say(f"=== {part.name}", log)
        if lacks := missing_for(part, missing):
            outcome = Outcome(part.name, NOT_RUN, 0, f"without {wheel(lacks[0])}")
        elif limit < LEAST:
            outcome = Outcome(part.name, OUT_OF_TIME, 0, "not started")
        else:
            command = part.command(sys.executable, is_check)
            own = variables | {"LIMIT_SECONDS": str(limit)}
            outcome = run(part.name, command, own, limit, log)
        outcomes.append(outcome)
    return outcomes


def summary(outcomes: list[Outcome]) -> str:
    """One line for each part."""
    lines = [
        f"{one.name:10} {one.verdict:14} {one.seconds:4.0f} s  {one.remark}".rstrip()
        for one in outcomes
    ]
    return "\n".join(["=== summary", *lines, f"{time.monotonic() - START:.0f} s in all"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, metavar="NAME", default=names,
                        help=f"of {', '.join(names)}")  # fmt: skip
    parser.add_argument("--plan", action="store_true", help="print the plan")
    parser.add_argument("--check", action="store_true", help="tiny sizes on a CPU")
    parser.add_argument(
        "--seconds", type=float, default=DEADLINE, help="for everything (%(default)s)"
    )
    return parser.parse_args()


def main() -> int:
    options = parse()
    by_name = {part.name: part for part in PARTS}
    parts = [by_name[name] for name in dict.fromkeys(options.parts)]
    if options.plan:
        print(plan(parts))
        return 0
    # So that the running part is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        default = Path(folder) / "out" if options.check else ROOT / "benchmarks/results"
        output = Path(os.environ.get("OUT") or default).resolve()
        output.mkdir(parents=True, exist_ok=True)
        packages = Path(folder) / "packages"
        packages.mkdir()
        variables = environment(packages, output, options.check)
        with open(output / "gpu.log", "w") as log:
            outcomes = run_parts(parts, variables, options.check, options.seconds, log)
            say(summary(outcomes), log)
        if output == ROOT / "benchmarks/results":
            subprocess.run([sys.executable, str(ROOT / "benchmarks/plot.py")])
    return 0 if all(one.verdict == OK for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
