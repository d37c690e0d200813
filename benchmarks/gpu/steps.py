"""Whole training steps of BERT-base and BERT-large, against Hugging Face's in the same run.

    python benchmarks/gpu/steps.py [--smoke]

Sequences and tokens are real ones: padding does not count, also where it is computed. Micro-batches
hold about 65,536 real tokens; ds_bert makes a LAMB step after four. MFU is the operations of
ds_bert/model/flops.py per second, by the peak of the data sheet in bf16, also for fp8. `wait` is
the share of the time that passes with an idle GPU until the next batches are there. The text is
random.
"""

import gc
import json
import sys
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import numpy as np
import torch
from suite import Report, relative_errors, require, start

require("numba", "ds_bert", "ds_bert_kernels")
from fp8 import fp8_problem
from synthetic_data import VOCAB_SIZE, write_dataset
from training_arms import pad_batch
from training_bench import PLAIN, VALUE, Bench

from ds_bert.dataset.store import TokenStore
from ds_bert.model.batch import make_batch

BARS = {"title": "Training, real sequences per second", "value": VALUE, "unit": "/s"}
OURS, FP8, EAGER, SDPA = "ours, bf16", "ours, fp8", "Hugging Face, eager", "Hugging Face, sdpa"
# The most telling cells come first, with their goals in sequences per second.
CELLS: dict[str, dict[tuple[int, str], int | None]] = {
    "bert-large": {
        (512, "real"): 970,
        (128, "full"): 2200,
        (512, "full"): 475,
        (128, "real"): None,
    },
    "bert-base": {
        (128, "full"): 7000,
        (512, "full"): 1480,
        (512, "real"): None,
        (128, "real"): None,
    },
}
TINY_CELLS = {(32, "real"): None}
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
    ours, stock = bench.arm(OURS).model.eval(), bench.arm(EAGER).model
    stock.load_state_dict(ours.state_dict())
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
    """The weights after some steps without DeepSpeed are those with it."""
    weights = []
    for impl in (OURS, PLAIN):
        model = bench.arm(impl).model
        torch.manual_seed(3)
        with bench.works(impl, "real", bench.length) as (works, _):
            next(works).run()
        weights.append(torch.cat([part.detach().flatten() for part in model.parameters()]).double())
    error = float((weights[0] - weights[1]).norm() / weights[0].norm())
    bench.report.check("with and without DeepSpeed", {"weights": error}, {"weights": 0.0}, 1e-4)


def measure_cell(bench: Bench, name: str, length: int, kind: str, goal: int | None) -> None:
    report, case = bench.report, f"{name} {length} {kind} lengths"
    speeds = {}
    for impl in (OURS, EAGER, SDPA, FP8):
        if (impl == FP8 and name == "bert-base") or (impl == SDPA and length == 128):
            continue
        reason = fp8_problem(bench.config, bench.device) if impl == FP8 else None
        if reason:
            report.skip(case, impl, reason)
            continue
        try:
            facts = {"goal": goal} if impl == OURS else {}
            speeds[impl] = bench.measure(case, impl, kind, length, **facts)
        except Exception as error:  # the others are still worth measuring
            report.fail(f"{case}, {impl}", error)
    if OURS in speeds and EAGER in speeds:
        ratio = speeds[OURS] / speeds[EAGER]
        report.add(f"{case:28} {ratio:.2f} x {EAGER}", case=case, times_hugging_face=ratio)


def measure_model(report: Report, name: str, model: str, cells: dict, stores, folder: Path) -> None:
    bench = Bench(report, model, stores, folder)
    if report.smoke and find_spec("deepspeed"):
        report.attempt("engines", check_engines, bench)
    for number, ((length, kind), goal) in enumerate(cells.items()):
        measure_cell(bench, name, length, kind, goal)
        if number > 0:
            continue
        report.attempt("against Hugging Face", check_against_hugging_face, bench)
        if name != "bert-base":
            case = f"{name} {length} {kind} lengths"
            report.attempt("profile", bench.profile, case, OURS, kind, length)
            if find_spec("deepspeed"):
                report.attempt(PLAIN, bench.measure, case, PLAIN, kind, length)


def main() -> int:
    report = start("gpu_steps", __doc__ or "", BARS)
    if not find_spec("deepspeed"):
        print("no package deepspeed: ds_bert runs on PlainEngine of engines.py", flush=True)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tiny.json").write_text(json.dumps(TINY))
        models = {"tiny": TINY_CELLS} if report.smoke else CELLS
        lengths, vocab_size = ((16, 32), 512) if report.smoke else ((128, 512), VOCAB_SIZE)
        stores = {
            kind: TokenStore.open(
                write_dataset(folder / kind, kind, lengths, INSTANCES, vocab_size)
            )
            for kind in ("real", "full")
        }
        for name, cells in models.items():
            model = str(folder / "tiny.json") if report.smoke else name
            report.attempt(name, measure_model, report, name, model, cells, stores, folder)
            gc.collect()
            torch._dynamo.reset()  # graphs of other sizes count against a limit
            if report.device.type == "cuda":
                torch.cuda.empty_cache()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
