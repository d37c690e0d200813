"""Whole training steps of BERT-base and BERT-large, against Hugging Face's in the same run.

    python benchmarks/gpu/steps.py [--smoke]

Sequences and tokens are real ones: padding does not count, also where it is computed. Micro-batches
hold about 65,536 real tokens; ds_bert makes a LAMB step after four. MFU is the operations of
ds_bert/model/flops.py per second, by the peak of the data sheet in bf16, also for fp8. `wait` is
the share of the time that passes with an idle GPU until the next batches are there. The text is
random. One arm is alive at a time, so that BERT-large fits into 80 GB; what there is no time for is
skipped.
"""

import json
import sys
from collections.abc import Iterable
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import numpy as np
import torch
from suite import Report, relative_errors, require, seconds_left, start
from transformers import BertForPreTraining

require("numba", "ds_bert", "ds_bert_kernels")
from fp8 import fp8_problem
from synthetic_data import VOCAB_SIZE, write_dataset
from training_arms import pad_batch
from training_bench import PLAIN, VALUE, Bench

from ds_bert.dataset.store import TokenStore
from ds_bert.model.batch import make_batch

BARS = {"title": "Training, real sequences per second", "value": VALUE, "unit": "/s"}
OURS, FP8, EAGER, SDPA = "ours, bf16", "ours, fp8", "Hugging Face, eager", "Hugging Face, sdpa"
WHOLE, SHORT = (OURS, PLAIN, EAGER, FP8), (OURS, EAGER)  # WHOLE has checks and a profile as well
ARM_SECONDS = 25  # of an arm of BERT-large, built, compiled and measured; expected, not measured


class Cell(NamedTuple):
    """One model on sequences of one kind.

    Attributes:
        model: a preset.
        length: tokens of the longest sequences.
        kind: "real" or "full" lengths.
        goal: sequences per second.
        arms: who trains.
    """

    model: str
    length: int
    kind: str
    goal: int | None
    arms: tuple[str, ...]

    @property
    def case(self) -> str:
        return f"{Path(self.model).stem} {self.length} {self.kind} lengths"


# The most telling ones come first.
CELLS = (
    Cell("bert-large", 512, "real", 970, WHOLE),
    Cell("bert-base", 128, "full", 7000, WHOLE),
    Cell("bert-large", 128, "full", 2200, SHORT),
    Cell("bert-base", 512, "full", 1480, SHORT),
    Cell("bert-large", 512, "full", 475, (*SHORT, SDPA)),
    Cell("bert-base", 512, "real", None, (*SHORT, SDPA)),
    Cell("bert-large", 128, "real", None, SHORT),
    Cell("bert-base", 128, "real", None, SHORT),
)
TINY = {
    "model_type": "bert", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 1, "max_position_embeddings": 32,
}  # fmt: skip
INSTANCES = 1 << 16
NAMES, TOLERANCE = ("hidden", "loss"), 4e-3


def check_against_hugging_face(bench: Bench) -> None:
    """Hidden states and loss without dropout; errors are relative to Hugging Face in float32."""
    table = bench.stores["real"].instances(bench.length)
    indices = np.arange(8)
    batch = make_batch(table, indices, np.zeros_like(indices), seed=1)
    rows = pad_batch(batch, bench.length, bench.device)
    ours, stock = bench.arm(OURS).model.eval(), BertForPreTraining(bench.config)
    stock.load_state_dict(ours.state_dict())
    stock.to(bench.device).set_attn_implementation("eager")
    exact = stock_values(stock, rows)
    baseline = relative_errors(NAMES, stock_values(deepcopy(stock).to(torch.bfloat16), rows), exact)
    batch = batch.to(bench.device)
    with torch.no_grad():
        sums = ours(batch)
        hidden = ours._encode(ours.bert, batch)
    loss = sums["mlm"].loss / len(batch.masked_lm_labels)
    loss = loss + sums["nsp"].loss / batch.num_sequences
    ours.train()
    found = relative_errors(NAMES, (hidden, loss), exact)
    bench.report.check("against Hugging Face", found, baseline, TOLERANCE)


def stock_values(model: Any, rows: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of the real tokens, and the loss."""
    inputs = {name: rows[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    was_training = model.training
    with torch.no_grad():
        hidden = model.eval().bert(**inputs).last_hidden_state
        loss = model(**rows).loss
    model.train(was_training)
    return hidden[rows["attention_mask"].bool()], loss


def check_engines(bench: Bench) -> None:
    """The weights after a step without DeepSpeed are those with it."""
    ours, plain = (weights_after_a_step(bench, impl) for impl in (OURS, PLAIN))
    error = float((ours - plain).norm() / ours.norm())
    bench.report.check("with and without DeepSpeed", {"weights": error}, {"weights": 0.0}, 1e-4)


def weights_after_a_step(bench: Bench, impl: str) -> torch.Tensor:
    parameters = bench.arm(impl).model.parameters
    torch.manual_seed(3)
    with bench.works(impl, "real", bench.length) as (works, _):
        next(works).run()
    return torch.cat([part.detach().flatten() for part in parameters()]).double()


def reason_to_skip(bench: Bench, impl: str) -> str | None:
    if seconds_left() < ARM_SECONDS:
        return "no time is left"
    if impl == PLAIN and not find_spec("deepspeed"):
        return f"found no deepspeed, so {OURS} is without it"
    return fp8_problem(bench.config, bench.device) if impl == FP8 else None


def measure_cell(bench: Bench, cell: Cell) -> None:
    report, speeds = bench.report, {}
    place = (cell.kind, cell.length)
    for impl in cell.arms:
        if reason := reason_to_skip(bench, impl):
            report.skip(cell.case, impl, reason)
            continue
        try:
            facts = {"goal": cell.goal} if impl == OURS else {}
            speeds[impl] = bench.measure(cell.case, impl, *place, **facts)
        except Exception as error:  # the others are still worth measuring
            report.fail(f"{cell.case}, {impl}", error)
        if impl == OURS and cell.arms == WHOLE:
            report.attempt("profile", bench.profile, cell.case, impl, *place)
            report.attempt("against Hugging Face", check_against_hugging_face, bench)
    if OURS in speeds and EAGER in speeds:
        ratio = speeds[OURS] / speeds[EAGER]
        line = f"{cell.case:28} {ratio:.2f} x {EAGER}"
        report.add(line, case=cell.case, times_hugging_face=ratio)


def measure_cells(report: Report, cells: Iterable[Cell], stores, folder: Path) -> None:
    for cell in cells:
        bench = Bench(report, cell.model, stores, folder)
        if report.smoke and find_spec("deepspeed"):
            report.attempt("engines", check_engines, bench)
        measure_cell(bench, cell)
        bench.free()


def write_stores(folder: Path, smoke: bool) -> dict[str, TokenStore]:
    """Data sets of either kind of lengths."""
    lengths, vocab_size = ((16, 32), TINY["vocab_size"]) if smoke else ((128, 512), VOCAB_SIZE)
    return {
        kind: TokenStore.open(write_dataset(folder / kind, kind, lengths, INSTANCES, vocab_size))
        for kind in ("real", "full")
    }


def main() -> int:
    report = start("gpu_steps", __doc__ or "", BARS)
    if not find_spec("deepspeed"):
        print("no package deepspeed: ds_bert runs on PlainEngine of engines.py", flush=True)
    with TemporaryDirectory() as name:
        folder = Path(name)
        tiny = folder / "tiny.json"
        tiny.write_text(json.dumps(TINY))
        cells = (Cell(str(tiny), 32, "real", None, WHOLE),) if report.smoke else CELLS
        stores = write_stores(folder, report.smoke)
        report.attempt("cells", measure_cells, report, cells, stores, folder)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
