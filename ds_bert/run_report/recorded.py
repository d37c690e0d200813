"""Curves of our own recorded runs, to be drawn under those of a user.

Losses of two runs with different text and vocabulary can be compared beside the unigram entropy of
each, and steps of different batches by sequences. So a recorded curve is moved by the difference
of both entropies and stretched by the ratio of both batches. `benchmarks/record_run.py` records.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from ds_bert.reports.charts import BROAD, Line
from ds_bert.run_report.baselines import Baselines
from ds_bert.run_report.history import Phase

_FILE = Path(__file__).with_name("recorded.json")
_LIKE = 2.0  # factor between layers, and hidden sizes, of models that are alike


def recorded_beside(phase: Phase, base: Baselines) -> list[Line]:
    """Masked-LM losses of recorded runs with a model about as large, over the steps of a run.

    Args:
        phase: the run, from random weights.
        base: of its data; without the unigram entropy nothing can be compared.
    """
    is_other = phase.setting("init_from") or phase.setting("batch_ramp")  # steps of one size
    if base.unigram is None or not phase.batch_size or is_other:
        return []
    found = []
    for run in recorded_runs():
        if _are_alike(run, phase.record.get("model_config", {})):
            steps = [step * run["batch_size"] / phase.batch_size for step in run["step"]]
            losses = [loss - run["unigram"] + base.unigram for loss in run["mlm_loss"]]
            number = sum(step <= phase.max_steps for step in steps)
            name = f"recorded: {run['num_hidden_layers']} layers of {run['hidden_size']}"
            found.append(Line(name, steps[:number], losses[:number], 0, BROAD))
    return found


@cache
def recorded_runs() -> list[dict[str, Any]]:
    """Courses of runs from random weights, with the size of the model and of the batch.

    Each has "step", "tokens" seen by then and "mlm_loss", of equal lengths.
    """
    return json.loads(_FILE.read_text(encoding="utf-8"))


def _are_alike(run: dict[str, Any], model: dict[str, Any]) -> bool:
    names = ("num_hidden_layers", "hidden_size")
    return all(run[name] / _LIKE <= model.get(name, 0) <= run[name] * _LIKE for name in names)
