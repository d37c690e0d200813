r"""Whether fp8 follows the loss curve of bf16: stored scales, and each tensor's own.

    python benchmarks/loss/fp8_curves.py DATASET          of scripts/preprocess.py, 64 tokens
    python benchmarks/loss/fp8_curves.py DATASET --smoke  a few steps, to try the script

The model, batches, masters and LAMB of curves.py, but 4 layers, so that the first and the last may
stay in bf16; dropout off; fp8 products emulated where there is no GPU. Stock transformers, which
rounds as bf16 does but in other places, shows what rounding alone does to a curve.

Exit code: 0, or 1 if a curve ends further away than it may (never with --smoke).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import torch
from arms import BF16, SIZES, Arm
from curves import MAX_SEQ_LENGTH, SEED, SETTING, SMOKE_STEPS, STEPS, Training
from verdicts import as_good

from ds_bert import errors
from ds_bert.dataset.store import TokenStore
from ds_bert.fp8.recipe import CURRENT, DELAYED, Fp8Recipe

NAME, LAYERS = "fp8_curves", 4
BFLOAT16, STOCK = "bf16", "stock transformers, bf16"
ARMS = (
    Arm(BFLOAT16, BF16, ours=True),
    Arm(STOCK, BF16),
    Arm("fp8, stored scales", BF16, ours=True, fp8=Fp8Recipe(DELAYED)),
    Arm("fp8, stored scales, all layers", BF16, ours=True, fp8=Fp8Recipe(DELAYED, edge_layers=0)),
    Arm("fp8, own scales, all layers", BF16, ours=True, fp8=Fp8Recipe(CURRENT, edge_layers=0)),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_STEPS} steps")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = TokenStore.open(args.dataset).instances(MAX_SEQ_LENGTH)
    steps = SMOKE_STEPS if args.smoke else STEPS
    training = Training(table, steps, device, len(ARMS), NAME, num_hidden_layers=LAYERS)
    sizes = SIZES | training.sizes
    training.add("setting", "all", **SETTING, **sizes, vocab_size=training.vocabulary.size)
    for arm in ARMS:
        training.run("dropout off", arm, SEED, 0.0, arm.name)
    expected = training.losses[BFLOAT16]
    for arm in ARMS[1:]:
        training.compare(arm.name, BFLOAT16, **as_good(training.losses[arm.name], expected))
    return training.finish(args.smoke)


if __name__ == "__main__":
    errors.exit_with(main)
