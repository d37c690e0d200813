"""Hours of the recipes that come with ds_bert."""

from pathlib import Path
from typing import Any, NamedTuple

from ds_bert import files, recipes
from ds_bert.model.pretrained import PRESETS
from time_model.engine import EngineCosts
from time_model.gpus import Ceilings
from time_model.step import Cell, Prediction, predict, sample

LENGTHS = "real"


class Estimate(NamedTuple):
    """A recipe on some GPUs, without evaluation, checkpoints and start-up."""

    recipe: str
    cell: Cell
    prediction: Prediction
    steps: int

    @property
    def hours(self) -> float:
        return self.steps * self.cell.accumulation * self.prediction.micro_batch / 3600


def cell_of(path: Path, gpus: int, num_tokens: int) -> tuple[Cell, int] | str:
    """What a recipe trains on some GPUs, and for how many steps.

    Args:
        path: of its file.
        gpus: that share the batch.
        num_tokens: of a micro-batch, at most; its size divides a GPU's share of the batch.

    Returns:
        or the reason why it cannot be said.
    """
    recipe: dict[str, Any] = files.parse_json(path.read_text(encoding="utf-8"))
    run, batch = recipe["ds_bert"], recipe["train_batch_size"]
    if not recipe.get("bf16", {}).get("enabled"):
        return "not in bf16, and the model knows no other precision"
    model = next((name for name in PRESETS if name in run["model"]), None)
    if model is None:
        return f"found model {run['model']}, expected one of {', '.join(PRESETS)}"
    if batch % gpus:
        return f"{batch} sequences cannot be shared out among {gpus} GPUs"
    length, share = run["max_seq_length"], batch // gpus
    most = max(1, int(num_tokens / sample(LENGTHS, length).mean()))
    size = next(size for size in range(min(share, most), 0, -1) if share % size == 0)
    dtype = "fp8" if run.get("fp8", "off") not in (False, "false", "off") else "bf16"
    optimizer = recipe["optimizer"]["type"]
    cell = Cell(model, length, LENGTHS, size, share // size, gpus, dtype, optimizer)
    return cell, run["max_steps"]


def estimates(
    gpus: tuple[int, ...],
    num_tokens: int,
    ceilings: Ceilings,
    engine: EngineCosts,
    network: float,
) -> tuple[list[Estimate], dict[str, str]]:
    """All recipes on several numbers of GPUs, and why others are left out; see `predict`."""
    found, left_out = [], {}
    for name in recipes.names():
        for count in gpus:
            answer = cell_of(recipes.find(name), count, num_tokens)
            if isinstance(answer, str):
                left_out[name] = answer
                continue
            cell, steps = answer
            found.append(Estimate(name, cell, predict(cell, ceilings, engine, network), steps))
    return found, left_out
