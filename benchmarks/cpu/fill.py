"""How full micro-batches of one shape are (`constant_shapes`), by the size of a step.

python benchmarks/cpu/fill.py DATASET

Whole steps, those that take a micro-batch more included. Nothing is timed but sharing out.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import numpy as np
from machine import save

from ds_bert.dataset.store import InstanceTable, TokenStore
from ds_bert.instances.collate import sequence_lengths
from ds_bert.training.batches import TrainingBatches

# Sequences of a step and of a micro-batch, ranks.
SIZES = (
    *((65_536, 512, 8), (65_536, 64, 8), (32_768, 256, 8), (32_768, 16, 8)),
    *((4096, 512, 1), (4096, 128, 8), (4096, 32, 8), (4096, 16, 1), (256, 32, 1), (256, 32, 8)),
)
SAMPLES = 400_000  # shared out at each size


def measure(table: InstanceTable, size: int, micro_batch_size: int, ranks: int) -> dict:
    batches = TrainingBatches(
        table=table, train_batch_size=size, micro_batch_size=micro_batch_size, rank=0,
        world_size=ranks, seed=1, constant_shapes=True,
    )  # fmt: skip
    shape, num_steps = batches.shape, min(100, SAMPLES // size)
    assert shape is not None
    tokens = number = seconds = 0.0
    for step in range(num_steps):
        indices, _ = batches._locate(step * size)
        tokens += sequence_lengths(table, indices).sum()
        start = time.process_time()
        number += len(batches._shared_out(indices))
        seconds += time.process_time() - start
    return {
        "max_seq_length": table.max_seq_length,
        "train_batch_size": size,
        "micro_batch_size": micro_batch_size,
        "ranks": ranks,
        "shape": shape._asdict(),
        "micro_batches_per_step": number / num_steps,
        "fill": float(tokens / (number * shape.num_tokens)),
        "seconds_per_step": seconds / num_steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    store, rows = TokenStore.open(parser.parse_args().dataset), []
    for length in store.sequence_lengths:
        table = store.instances(length)
        lengths = sequence_lengths(table, np.arange(len(table)))
        print(f"{length}: {len(table):,} rows, {lengths.mean():.1f} +- {lengths.std():.1f} tokens")
        for sizes in SIZES:
            row = measure(table, *sizes)
            rows.append(row)
            print(
                f"{sizes[0]:6} sequences, {sizes[1]:4} x {sizes[2]} ranks: "
                f"{row['shape']['num_tokens']:8,} tokens, {row['micro_batches_per_step']:7.2f} of "
                f"them, {row['fill']:.2%} full, {row['seconds_per_step'] * 1e3:.1f} ms",
                flush=True,
            )
    save("fill", rows)


if __name__ == "__main__":
    main()
