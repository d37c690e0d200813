"""How far LAMB under DeepSpeed is from an independent loop over tensors after 10 steps.

    python benchmarks/loss/lamb_exactness.py

The model is a tiny BERT without dropout. "Relative error" is the norm of the difference of all
weights divided by the norm of the total update; runs are in fp32 where nothing else is said. The
last rows are an ordinary LAMB, which takes one trust ratio per tensor that it is handed.
"""

import os
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from distributed_util import join_group, run_ranks
from lamb_cases import EXACT_RUNS, ORDINARY_RUNS, SIXTEEN_BIT_RUNS, run_case
from lamb_reference import error, train_reference


def main() -> None:
    join_group()
    reference = train_reference()
    print(f"| {'run':37} | relative error | max abs error |")
    print(f"|{'-' * 39}|---------------:|--------------:|", flush=True)
    for name, (case, ranks) in {**EXACT_RUNS, **SIXTEEN_BIT_RUNS, **ORDINARY_RUNS}.items():
        weights = run_case(case) if ranks == 1 else run_ranks(run_case, ranks, case)[0]
        relative, largest = error(weights, reference)
        print(f"| {name:37} | {relative:14.1e} | {largest:13.1e} |", flush=True)


if __name__ == "__main__":
    main()
