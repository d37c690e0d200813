r"""Whether training with the fused kernels follows the loss curve of plain torch, without a GPU.

    python benchmarks/loss/kernel_curves.py DATASET                 the kernels' twins: 15 minutes
    python benchmarks/loss/kernel_curves.py DATASET --interpreted   the kernels interpreted: 80
    python benchmarks/loss/kernel_curves.py DATASET [...] --smoke   a few steps, to try the script

Plain torch is stock transformers as in curves.py, whose model, batches and LAMB these are; against
it stand attention, norms, GELU, embeddings, head and LAMB of this project, all at once. The twins
do what the kernels do, with the same masks of dropout, in plain torch: 64 tokens, fp32 and bf16.

Triton's interpreter takes a second for some 30 tokens. So there the model has one layer and one
head, a batch is 2 sequences of 16 tokens, and all is fp32. Without dropout the kernels are held to
plain torch, with dropout to their twins.

The data of the committed results are from 20 MB of English novels and from 2 MB of them:

    python scripts/create_vocab.py --input_file NOVELS --vocab_size 1024 --vocab_file VOCAB
    python scripts/preprocess.py --input_file NOVELS --vocab_file VOCAB --max_seq_length 64 \
        --dupe_factor 1 --output_dir DATASET        (for the interpreter 256 words and 16 tokens)

Exit code: 0, or 1 if a curve is further away than it may be (never with --smoke).
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share
if "--interpreted" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import torch
from arms import BF16, FP32, KERNELS, SIZES, TWINS, Arm
from curves import (
    DROPOUT,
    DROPOUT_SEEDS,
    MAX_SEQ_LENGTH,
    SEED,
    SETTING,
    SMOKE_STEPS,
    STEPS,
    Training,
)
from verdicts import compare_seeds, distance, learned, within_noise

from ds_bert import errors
from ds_bert.dataset.store import TokenStore

PLAIN, REVERSED = Arm("plain fp32", FP32), Arm("plain fp32, reversed", FP32, flip=True)
TWIN = Arm("ours, twins fp32", FP32, ours=True, package=TWINS)
KERNEL = Arm("ours, interpreted", FP32, ours=True, package=KERNELS)
PLAIN_16, TWIN_16 = Arm("plain bf16", BF16), Arm("ours, twins bf16", BF16, ours=True, package=TWINS)
CPU = torch.device("cpu")
TINY_LENGTH, TINY_BATCH = 16, 2
TINY_RATE = 0.005  # with which rounding does not grow: then a curve says more
TINY = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 128}


def hold(training: Training, one: str, other: str, noise: float) -> None:
    """Add how far two runs are apart, and whether rounding alone could make that."""
    runs = training.losses
    training.compare(one, other, **within_noise(runs[one], runs[other], noise))


def twins(training: Training) -> None:
    for arm in (PLAIN, REVERSED, TWIN, PLAIN_16, TWIN_16):
        training.run("dropout off", arm, SEED, 0.0, arm.name)
    for seed in DROPOUT_SEEDS:
        for arm in (PLAIN, TWIN):
            name = f"{arm.name}, dropout, seed {seed}"
            training.run(f"dropout {DROPOUT}", arm, seed, DROPOUT, name)
    runs = training.losses
    hold(training, TWIN.name, PLAIN.name, distance(runs[REVERSED.name], runs[PLAIN.name]))
    hold(training, TWIN_16.name, PLAIN_16.name, distance(runs[PLAIN_16.name], runs[PLAIN.name]))
    ours, plain = (
        [runs[f"{arm.name}, dropout, seed {seed}"] for seed in DROPOUT_SEEDS]
        for arm in (TWIN, PLAIN)
    )
    training.add("verdicts", "ours - plain, dropout", **compare_seeds(ours, plain))
    training.add("verdicts", "learned", **learned([*runs.values()], training.entropy()))


def interpreted(training: Training) -> None:
    for arm in (PLAIN, REVERSED, KERNEL):
        training.run("dropout off", arm, SEED, 0.0, arm.name)
    dropped = [f"{arm.name}, dropout" for arm in (TWIN, KERNEL)]
    for arm, name in zip((TWIN, KERNEL), dropped, strict=True):
        training.run(f"dropout {DROPOUT}", arm, SEED, DROPOUT, name)
    noise = distance(training.losses[REVERSED.name], training.losses[PLAIN.name])
    hold(training, KERNEL.name, PLAIN.name, noise)
    hold(training, *reversed(dropped), noise)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--interpreted", action="store_true", help="the kernels, at a tiny size")
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_STEPS} steps")
    args = parser.parse_args()
    steps, store = SMOKE_STEPS if args.smoke else STEPS, TokenStore.open(args.dataset)
    if args.interpreted:
        name, work, length = "interpreted_curves", interpreted, TINY_LENGTH
        how = {"batch_size": TINY_BATCH, "peak": TINY_RATE, **TINY}
        training = Training(store.instances(length), steps, CPU, 5, name, **how)
    else:
        name, work, length = "twin_curves", twins, MAX_SEQ_LENGTH
        training = Training(store.instances(length), steps, CPU, 11, name)
    its = {"max_seq_length": length, "learning_rate": training.peak}
    its |= {"batch_size": training.batch_size, "vocab_size": store.vocabulary.size}
    training.add("setting", "all", **SETTING | its, **SIZES | training.sizes)
    work(training)
    return training.finish(args.smoke)


if __name__ == "__main__":
    errors.exit_with(main)
