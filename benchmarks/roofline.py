"""What a training step on a GPU should take, term by term, beside what was measured.

    python benchmarks/roofline.py [--gpu H200] [--engine before|after] [--attempt expected|upper]
    python benchmarks/roofline.py --recipes [--price DOLLARS]

A model, not a measurement: operations and bytes are counted (time_model/step.py, time_model/
engine.py), speeds are those of rows in benchmarks/results where the same GPU has any, otherwise
assumptions (time_model/gpus.py), which are printed. Milliseconds are of a micro-batch; what happens
once a step is shared out. The tables are Markdown.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from machine import ROOT
from time_model.engine import ENGINES, LAUNCH, WAIT
from time_model.gpus import ATTEMPTS, GPUS, Ceilings, assumed
from time_model.measured import compare, measured_cells, profile_of, read, with_measurements
from time_model.recipes import LENGTHS, estimates
from time_model.step import HOP, NODE, NVLINK, Cell, Prediction, memory, predict, sample

from ds_bert.errors import exit_with

CELLS = [
    (model, length, kind)
    for model in ("bert-large", "bert-base")
    for length in (512, 128)
    for kind in ("real", "full")
]
COLUMNS = {
    "products": ("products",),
    "attention": ("attention",),
    "element-wise": ("element-wise",),
    "head": ("head",),
    "embeddings": ("embeddings",),
    "engine, optimizer": ("engine", "optimizer"),
    "waits, launches": ("waits", "launches"),
    "communication": ("communication",),
}
RECIPE_GPUS = (1, 8, 64)


def main() -> None:
    arguments = parse()
    ceilings = assumed(arguments.gpu, arguments.attempt)
    ceilings = with_measurements(ceilings, arguments.results, arguments.gpu)
    tell_assumptions(arguments, ceilings)
    if arguments.recipes:
        tell_recipes(arguments, ceilings)
    else:
        tell_cells(arguments, ceilings)
        tell_measured(arguments, ceilings)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--gpu", choices=GPUS, default="H200")
    add("--engine", choices=ENGINES, default="after", help="state of the code, engine.py")
    add("--attempt", choices=ATTEMPTS, default="expected", help="how well kernels do, gpus.py")
    add("--fp8", action="store_true", help="the layers' products in fp8, as today's code does it")
    add("--tokens", type=positive, default=1 << 16, help="of a micro-batch, about; default 65,536")
    add("--accumulation", type=positive, default=4, help="micro-batches of a step; default 4")
    add("--gpus", type=positive, default=1, help="default 1")
    add("--network", type=amount, default=360, help="GB/s of a node of 8 GPUs, an assumption: "
        "default 360, eight times 400 Gb/s")  # fmt: skip
    add("--recipes", action="store_true", help=f"hours and cost on {RECIPE_GPUS} GPUs")
    add("--price", type=amount, default=3.0, help="dollars of a GPU for an hour, an assumption: "
        "default 3")  # fmt: skip
    add(
        "--results",
        type=folder,
        default=ROOT / "benchmarks/results",
        help="folder of measured rows",
    )
    arguments = parser.parse_args()
    if arguments.fp8 and arguments.gpu.startswith("A100"):
        parser.error(f"--fp8: found {arguments.gpu}, expected a GPU that has it (H100, H200)")
    return arguments


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number of at least 1")
    return int(text)


def folder(text: str) -> Path:
    """A folder that is there."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"found no folder {text}, expected one of measured rows")
    return Path(text)


def amount(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0")
    return value


def tell_assumptions(arguments: argparse.Namespace, ceilings: Ceilings) -> None:
    print(f"Model, not measured: {arguments.gpu}, engine {arguments.engine} the improvements")
    host = f"assumed: a launch takes the host {1e6 * LAUNCH:g} us, a wait {1e3 * WAIT:g} ms"
    links = (
        f"assumed: {NVLINK / 1e9:.0f} GB/s from GPU to GPU, {arguments.network:g} GB/s from a "
        f"node of {NODE} to the others, {1e6 * HOP:g} us a hop"
    )
    for note in (*ceilings.notes, host, links):
        print(f"* {note}")
    print()


def tell_cells(arguments: argparse.Namespace, ceilings: Ceilings) -> None:
    lines = []
    for model, length, kind in CELLS:
        sequences = max(1, round(arguments.tokens / sample(kind, length).mean()))
        cell = Cell(
            model, length, kind, sequences, arguments.accumulation, arguments.gpus,
            "fp8" if arguments.fp8 else "bf16",
        )  # fmt: skip
        found = _predict(cell, arguments, ceilings)
        terms = (1e3 * sum(found.terms[name] for name in names) for names in COLUMNS.values())
        lines.append(
            [
                cell.name,
                *(f"{value:.1f}" for value in terms),
                f"{1e3 * found.micro_batch:.1f}",
                f"{1e3 * found.micro_batch * cell.accumulation:,.0f}",
                f"{found.sequences_per_second:,.0f}",
                _ruling(cell, found, arguments),
            ]
        )
    tell(["model", *COLUMNS, "ms", "ms of a step", "sequences/s", "rules"], lines)


def tell_measured(arguments: argparse.Namespace, ceilings: Ceilings) -> None:
    """Measured cells have their own accumulation and number of GPUs."""
    rows = read(arguments.results, "gpu_steps", arguments.gpu)
    lines = []
    for cell, row in measured_cells(arguments.results, arguments.gpu):
        model = _predict(cell, arguments, ceilings)
        found = compare(cell, row, model, profile_of(cell, row, rows))
        lines.append(
            [
                f"{cell.name}: {row['impl']}",
                f"{1e3 * found.seconds:.1f}",
                f"{1e3 * model.micro_batch:.1f}",
                f"{found.seconds / model.micro_batch - 1:+.0%}",
                f"{found.sequences_per_second:,.0f}",
                found.gap,
            ]
        )
    if not lines:
        print(f"Steps on an {arguments.gpu}: not measured")
        return
    tell(["measured", "ms", "model", "gap", "sequences/s", "largest difference"], lines)


def tell_recipes(arguments: argparse.Namespace, ceilings: Ceilings) -> None:
    found, left_out = estimates(
        RECIPE_GPUS, arguments.tokens, ceilings, ENGINES[arguments.engine], _network(arguments)
    )
    lines = [
        [
            estimate.recipe,
            f"{estimate.cell.gpus}",
            f"{estimate.cell.sequences} x {estimate.cell.accumulation}",
            f"{estimate.prediction.sequences_per_second:,.0f}",
            f"{estimate.hours:,.1f}",
            f"${estimate.hours * estimate.cell.gpus * arguments.price:,.0f}",
            _ruling(estimate.cell, estimate.prediction, arguments),
        ]
        for estimate in found
    ]
    tell(
        ["recipe", "GPUs", "micro-batch x accumulation", "sequences/s", "hours", "cost", "rules"],
        lines,
    )
    print(f"Lengths: {LENGTHS}. Assumed: ${arguments.price:,.2f} an hour for a GPU; micro-batches")
    print(f"of about {arguments.tokens:,} tokens; nothing for evaluation, checkpoints and start.")
    for name, reason in left_out.items():
        print(f"Left out: {name}: {reason}")


def _predict(cell: Cell, arguments: argparse.Namespace, ceilings: Ceilings) -> Prediction:
    return predict(cell, ceilings, ENGINES[arguments.engine], _network(arguments))


def _ruling(cell: Cell, found: Prediction, arguments: argparse.Namespace) -> str:
    if memory(cell) <= GPUS[arguments.gpu].memory:
        return found.ruling
    return f"{found.ruling}; does not fit: {memory(cell) / 1e9:.0f} GB, take fewer --tokens"


def _network(arguments: argparse.Namespace) -> float:
    return arguments.network * 1e9


def tell(heads: list[str], lines: Iterable[list[str]]) -> None:
    """Print a table; all columns but the first and last are figures."""
    print(f"| {' | '.join(heads)} |")
    print(f"|---|{'---:|' * (len(heads) - 2)}---|")
    for line in lines:
        print(f"| {' | '.join(line)} |")
    print()


if __name__ == "__main__":
    exit_with(main)
