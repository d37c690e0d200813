"""What benchmarks/gpu has measured: speeds in place of assumptions, and steps beside the model."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from engines import ACCUMULATION

from ds_bert.errors import DataError
from time_model.gpus import GPUS, Ceilings, Shape
from time_model.step import Cell, Prediction

ATTENTION = ("triton, dropout 0.1", "flash, dropout 0.1")  # the faster one trains on a GPU
OURS = {"ours, bf16": "bf16", "ours, without DeepSpeed": "bf16", "ours, fp8": "fp8"}
# Kernels by name, the first that fits, and the terms of the model that they stand for.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "element-wise": (
        r"^triton_|^_(norm|gelu|column_sums|embed)|embedding|sort",
        ("element-wise", "embeddings"),
    ),
    "attention": (r"flash|fmha|attention", ("attention",)),
    "products and head": (r"gemm|nvjet|cutlass|xmma|cublas|split_?k|_rows_", ("products", "head")),
    "communication": (r"nccl", ("communication",)),
    "engine and optimizer": (r"", ("engine", "optimizer")),
}
IDLE = ("waits", "launches")


class Comparison(NamedTuple):
    """A measured cell: seconds of a micro-batch, and where it differs most from the model."""

    cell: Cell
    seconds: float
    sequences_per_second: float
    gap: str


def read(folder: Path, name: str, gpu: str) -> list[dict[str, Any]]:
    """Rows of NAME.json that are of that GPU; none if there is no such file.

    Raises:
        DataError: the file is not what suite.py writes.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows, found = content["rows"], content["machine"].get("gpu")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: found {error!r}, expected rows and a machine; make it anew with "
            "benchmarks/gpu.sh, or name another folder with --results"
        ) from None
    return rows if found == GPUS[gpu].name else []


def with_measurements(ceilings: Ceilings, folder: Path, gpu: str) -> Ceilings:
    """Speeds that were measured take the place of assumed ones; the notes say which."""
    notes = list(ceilings.notes)
    for row in read(folder, "gpu_lamb", gpu) + read(folder, "gpu_products", gpu):
        if speed := row.get("bytes_per_second"):  # a copy's; the last one counts
            ceilings = ceilings.with_stream(speed)
            notes.append(f"measured: copy {speed / 1e12:.2f} TB/s")
    products: dict[tuple[str, Shape], float] = {}
    for row in read(folder, "gpu_products", gpu):
        if "tflops_per_second" in row:
            shape, speed = (row["m"], row["n"], row["k"]), row["tflops_per_second"] * 1e12
            products["fp8" if "float8" in row["dtype"] else "bf16", shape] = speed
            if len(set(shape)) == 1:  # a large square: what products without a row are held to
                ceilings = replace(ceilings, product=speed)
                notes.append(f"measured: {speed / 1e12:.0f} TFLOP/s in a large product")
    attention: dict[str, float] = {}
    for row in read(folder, "gpu_attention", gpu):
        if row.get("impl") in ATTENTION and "tflops_per_second" in row:
            case, speed = row["case"].lower(), row["tflops_per_second"] * 1e12
            attention[case] = max(speed, attention.get(case, 0.0))
    if products:
        notes.append(f"measured: {len(products)} products (gpu_products.json)")
    if attention:
        notes.append(f"measured: attention of {len(attention)} cells (gpu_attention.json)")
    return replace(
        ceilings,
        measured_products=products,
        measured_attention=attention,
        notes=tuple(notes),
    )


def measured_cells(folder: Path, gpu: str) -> list[tuple[Cell, dict[str, Any]]]:
    """Cells of gpu_steps.json that ds_bert trained, each with its row."""
    cells = []
    for row in read(folder, "gpu_steps", gpu):
        named = re.fullmatch(r"(bert-\w+) (\d+) (real|full) lengths", row.get("case", ""))
        if named and row.get("impl") in OURS and row.get("ms"):
            model, length, kind = named.groups()
            accumulation = row.get("accumulation", ACCUMULATION)
            cell = Cell(model, int(length), kind, row["micro_batch_size"], accumulation)
            cells.append((cell._replace(dtype=OURS[row["impl"]]), row))
    return cells


def compare(cell: Cell, row: dict[str, Any], prediction: Prediction, profile: Any) -> Comparison:
    """A measured cell beside the model.

    Args:
        cell: what was trained.
        row: of gpu_steps.json.
        prediction: the model's.
        profile: the row of gpu_steps.json with that cell's kernels; None if there is none.
    """
    seconds = row["ms"] / 1e3 / cell.accumulation
    gap = "not profiled" if profile is None else _largest_gap(cell, row, prediction, profile)
    return Comparison(cell, seconds, row["sequences_per_second"], gap)


def profile_of(cell: Cell, row: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    """The profile of a measured cell among the rows of gpu_steps.json; None if there is none."""
    fits = (r for r in rows if (r.get("case"), r.get("profiled")) == (cell.name, row["impl"]))
    return next(fits, None)


def _largest_gap(
    cell: Cell, row: dict[str, Any], prediction: Prediction, profile: dict[str, Any]
) -> str:
    """Name of the group of terms that differs most, and by how many ms of a micro-batch."""
    found = dict.fromkeys(GROUPS, 0.0)
    for kernel in profile["profile"]:
        name = kernel["kernel"].lower()
        group = next(group for group, (words, _) in GROUPS.items() if re.search(words, name))
        found[group] += kernel["ms"] / cell.accumulation
    gaps = {
        group: value - 1e3 * sum(prediction.terms[term] for term in GROUPS[group][1])
        for group, value in found.items()
    }
    idle = (row["ms"] - profile["kernel_ms"]) / cell.accumulation
    gaps["idle"] = idle - 1e3 * sum(prediction.terms[term] for term in IDLE)
    largest = max(gaps, key=lambda group: abs(gaps[group]))
    return f"{largest} {gaps[largest]:+.1f} ms"
