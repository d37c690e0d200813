"""Keep the course of a run for others: pale below a user's curve, and what the advisor expects.

    python benchmarks/record_run.py RUN

RUN began from random weights and has its report. Of a model of this size one run is kept, in
`ds_bert/run_report/recorded.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from machine import ROOT

from ds_bert.run_report.page import RECORD

KEPT = ROOT / "ds_bert/run_report/recorded.json"
ROWS = 60
SIZES = ("num_hidden_layers", "hidden_size", "vocab_size")


def recorded(run: Path) -> dict[str, Any]:
    """Means over equally many rows of training, at the last step of each."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    parts = np.array_split(np.arange(len(rows)), min(ROWS, len(rows)))
    tokens = np.cumsum([row["num_tokens"] for row in rows])
    record = json.loads((run / "config.json").read_text())
    baselines = next(iter(json.loads((run / RECORD).read_text())["baselines"].values()))
    return {
        **{name: record["model_config"][name] for name in SIZES},
        "batch_size": record["batch"]["train_batch_size"],
        "unigram": baselines["unigram"],
        "step": [rows[part[-1]]["step"] for part in parts],
        "tokens": [int(tokens[part[-1]]) for part in parts],
        "mlm_loss": [round(float(np.mean([rows[n]["mlm_loss"] for n in p])), 4) for p in parts],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    new = recorded(parser.parse_args().run)
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else []
    kept = [one for one in kept if any(one[name] != new[name] for name in SIZES)]
    lines = ",\n".join(json.dumps(one) for one in [*kept, new])
    KEPT.write_text(f"[{lines}]\n")


if __name__ == "__main__":
    main()
