"""Inject faults into real runs on this machine or disk, and hold what happens against the promises.

See `benchmarks/torture/program.py` and docs/reliability.md.
"""

import sys
from pathlib import Path

# In place of this folder, whose file names must not shadow other packages.
sys.path[0] = str(Path(__file__).resolve().parents[1] / "benchmarks")

from torture.program import main

from ds_bert.errors import exit_with

if __name__ == "__main__":
    exit_with(main)
