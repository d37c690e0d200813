r"""Whether training with ds_bert follows the loss curve of stock transformers.

    python benchmarks/loss/curves.py DATASET          a folder of scripts/preprocess.py, 64 tokens
    python benchmarks/loss/curves.py DATASET --smoke  a few steps, to try the script

A small BERT is trained for 2,000 steps by several implementations, from the same weights on the
same batches with the same masks and the same optimizer. "plain" is stock `BertForPreTraining`:
padded batches, eager attention, logits at all positions, LAMB in plain torch. "ours" is what the
trainer runs on this device, without DeepSpeed. In bf16 both have fp32 master weights, and model and
gradients use a bf16 copy of them; fp8 is that with the layers' matrix products in fp8.

"plain, reversed" has the sequences of each batch in the other order. Only rounding tells it from
"plain", so their distance is what rounding alone does to the curve.

The data of the committed result, from 20 MB of English novels:

    python scripts/create_vocab.py --input_file NOVELS --vocab_size 1024 --vocab_file VOCAB
    python scripts/preprocess.py --input_file NOVELS --vocab_file VOCAB --max_seq_length 64 \
        --dupe_factor 1 --output_dir DATASET

Exit code: 0, or 1 if a curve is further away than it may be (never with --smoke).
"""

import argparse
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import numpy as np
import torch
from arms import (
    ARMS,
    BETAS,
    BF16,
    CLIP,
    FP32,
    SIZES,
    WEIGHT_DECAY,
    Arm,
    MasterWeights,
    kernels_of,
    losses_of,
    make_models,
)
from machine import ROOT, write
from numpy.typing import NDArray
from plot import draw_file
from torch import Tensor
from verdicts import (
    as_good,
    compare,
    compare_seeds,
    describe,
    distance,
    learned,
    within_noise,
)

from ds_bert import errors
from ds_bert.dataset.store import InstanceTable, TokenStore
from ds_bert.fp8.recipe import check_fp8
from ds_bert.optim.schedules import learning_rate_factor
from ds_bert.training.batches import TrainingBatches

MAX_SEQ_LENGTH, BATCH_SIZE, STEPS, SMOKE_STEPS = 64, 16, 2000, 4
LEARNING_RATE, WARM_UP = 0.02, 0.1  # warm-up: share of the steps
DATA_SEED, SEED, DROPOUT_SEEDS, DROPOUT = 1, 1, (1, 2, 3), 0.1
SETTING = {
    "max_seq_length": MAX_SEQ_LENGTH,
    "batch_size": BATCH_SIZE,
    "learning_rate": LEARNING_RATE,
    "warm_up": WARM_UP,
    "betas": BETAS,
    "weight_decay": WEIGHT_DECAY,
    "gradient_clipping": CLIP,
}
GAP = "difference of the smoothed losses"
CHART = {"title": "Loss of a small BERT", "value": "curve", "x": "step", "unit": "nats"}


def learning_rate(peak: float, step: int, steps: int) -> float:
    return peak * learning_rate_factor(
        step, lr_scheduler_type="linear", max_steps=steps, warmup_steps=round(WARM_UP * steps)
    )


class Training:
    """Trains one arm after the other.

    Args:
        table: of the data set.
        steps: of each run.
        device: of all of them.
        num_runs: how many there will be.
        name: of the result file.
        batch_size: of all of them.
        peak: of the learning rate.
        sizes: of the model, where they are not `SIZES`.

    Attributes:
        losses: by name of the run, [steps, 2]: masked-LM and next-sentence loss of each step.
        rows: of the result file.
    """

    def __init__(
        self,
        table: InstanceTable,
        steps: int,
        device: torch.device,
        num_runs: int = len(ARMS) + 2 * len(DROPOUT_SEEDS),
        name: str = "loss_curves",
        batch_size: int = BATCH_SIZE,
        peak: float = LEARNING_RATE,
        **sizes: int,
    ):
        self.name, self.batch_size, self.peak, self.sizes = name, batch_size, peak, sizes
        self.vocabulary, self.steps, self.device = table.store.vocabulary, steps, device
        self.losses: dict[str, NDArray[np.float64]] = {}
        self.rows: list[dict[str, Any]] = []
        self.batches = TrainingBatches(
            table=table,
            train_batch_size=batch_size,
            micro_batch_size=batch_size,
            rank=0,
            world_size=1,
            seed=DATA_SEED,
        )
        self.done, self.started = 0, time.monotonic()
        self.planned = steps * num_runs

    def run(self, case: str, arm: Arm, seed: int, dropout: float, name: str) -> None:
        """Train one arm and keep its losses."""
        models = make_models(arm, self.vocabulary, seed, dropout, self.device, **self.sizes)
        optimizer = MasterWeights(models)
        losses = torch.empty(self.steps, 2, dtype=torch.float64, device=self.device)
        torch.manual_seed(seed)
        with kernels_of(arm), self.batches.iterate(0) as steps:
            for number, step in enumerate(islice(steps, self.steps)):
                parts = losses_of(arm, models.working, step.micro_batches[0].to(self.device))
                parts.sum().backward()
                optimizer.step(learning_rate(self.peak, number, self.steps))
                losses[number] = parts.detach()
                self.tell(name, number + 1, losses[number])
        self.losses[name] = losses.cpu().numpy()
        self.add(case, name, seed=seed, runs_with=models.runs_with, **describe(self.losses[name]))

    def add(self, case: str, name: str, **row: Any) -> None:
        self.rows.append({"case": case, "impl": name, **row})
        write(self.name, self.rows, CHART)

    def finish(self, is_smoke: bool) -> int:
        """Draw all curves and say whether all verdicts are good; returns the exit code."""
        draw_file(ROOT / write(self.name, self.rows, CHART))
        passed = all(row.get("passed", True) for row in self.rows)
        print("all curves agree" if passed else "FAILED")
        return 0 if passed or is_smoke else 1

    def tell(self, name: str, step: int, parts: Tensor) -> None:
        self.done += 1
        if step % 200 == 0 or step == self.steps:
            left = (time.monotonic() - self.started) / self.done * (self.planned - self.done)
            print(
                f"{name:24} step {step:5}  loss {float(parts.sum()):.3f}  "
                f"about {left / 60:.1f} minutes left",
                flush=True,
            )

    def entropy(self) -> float:
        """Of single masked tokens, in nats: what a model gains that knows their frequencies."""
        counts = np.zeros(self.vocabulary.size)
        with self.batches.iterate(0) as steps:
            for step in islice(steps, self.steps):
                labels = step.micro_batches[0].masked_lm_labels.numpy()
                counts += np.bincount(labels, minlength=len(counts))
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())

    def compare(self, one: str, other: str, **verdict: Any) -> None:
        """Add how far two runs are apart, and what is thought of it."""
        apart = compare(self.losses[one], self.losses[other])
        self.add(f"{GAP}, dropout off", f"{one} - {other}", **apart, **verdict)
        print(
            f"{one} - {other}: at most {apart['largest_difference']:.1e}, at the end "
            f"{apart['final_difference']:+.1e}  {verdict or ''}"
        )


def train(training: Training) -> None:
    """All runs."""
    training.add("setting", "all", **SETTING, **SIZES, vocab_size=training.vocabulary.size)
    for arm in ARMS:
        training.run("dropout off", arm, SEED, 0.0, arm.name)
    dtype = BF16 if training.device.type == "cuda" else FP32  # bf16 is where FlashAttention runs
    pair = [arm for arm in ARMS if arm.dtype == dtype and not (arm.fp8 or arm.flip)]
    for seed in DROPOUT_SEEDS:
        for arm in pair:
            training.run(f"dropout {DROPOUT}", arm, seed, DROPOUT, f"{arm.name}, seed {seed}")


def judge(training: Training) -> None:
    """Add the verdicts to the rows."""
    runs = training.losses
    training.compare("plain fp32, reversed", "plain fp32")
    training.compare("plain bf16, reversed", "plain bf16")
    training.compare("plain bf16", "plain fp32")
    for one, other, *noise in (
        ("ours fp32", "plain fp32", "plain fp32, reversed", "plain fp32"),
        ("ours bf16", "plain bf16", "plain bf16", "plain fp32"),
    ):
        verdict = within_noise(runs[one], runs[other], distance(*(runs[name] for name in noise)))
        training.compare(one, other, **verdict)
    training.compare("ours fp8", "ours bf16", **as_good(runs["ours fp8"], runs["ours bf16"]))
    ours, plain = (
        [run for name, run in runs.items() if name.startswith(side) and "seed" in name]
        for side in ("ours", "plain")
    )
    for name, row in (
        ("ours - plain", compare_seeds(ours, plain)),
        ("learned", learned(list(runs.values()), training.entropy())),
    ):
        training.add("verdicts", name, **row)
        print(f"{name}: " + "  ".join(f"{key} {value:.5g}" for key, value in row.items()))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_STEPS} steps")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = TokenStore.open(args.dataset).instances(MAX_SEQ_LENGTH)
    training = Training(table, SMOKE_STEPS if args.smoke else args.steps, device)
    check_fp8(device, BF16, (SIZES["hidden_size"], SIZES["intermediate_size"]))
    train(training)
    judge(training)
    return training.finish(args.smoke)


if __name__ == "__main__":
    errors.exit_with(main)
