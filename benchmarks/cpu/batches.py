"""Speed of making batches (order, gather, mask) from a data set, in tokens per second of one core.

python benchmarks/cpu/batches.py DATASET [DATASET ...]

All units of masks in turn; where masks are stored, those.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import numpy as np
from machine import save

from ds_bert.dataset.options import MASKING_UNITS, MaskOptions, mask_fields
from ds_bert.dataset.store import InstanceTable, TokenStore
from ds_bert.instances.collate import collate
from ds_bert.rng.streams import permuted

TOKENS = 60_000  # of a batch
NUM_BATCHES, REPEATS = 200, 5


def kinds(table: InstanceTable) -> dict[str, MaskOptions]:
    own = table.options.masks
    if table.masks is not None:
        return {"stored": own}
    return {unit: replace(own, **mask_fields(None, unit)) for unit in MASKING_UNITS}


def tokens_per_second(table: InstanceTable, masks: MaskOptions) -> float:
    size = TOKENS // table.max_seq_length
    num_tokens, start = 0, time.process_time()
    for number in range(NUM_BATCHES):
        samples = np.arange(number * size, (number + 1) * size)
        indices = permuted(samples % len(table), len(table), seed=1, epoch=0)
        batch = collate(table, indices, np.zeros_like(indices), seed=1, masks=masks)
        num_tokens += len(batch.input_ids)
    return num_tokens / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", nargs="+")
    rows = []
    for folder in parser.parse_args().datasets:
        store = TokenStore.open(folder)
        for length in store.sequence_lengths:
            table = store.instances(length)
            masks = kinds(table)
            for kind in masks.values():
                tokens_per_second(table, kind)  # compiles, and brings the files into memory
            rates = [
                {unit: tokens_per_second(table, kind) for unit, kind in masks.items()}
                for _ in range(REPEATS)
            ]
            for unit in masks:
                rate = median(found[unit] for found in rates)
                about = {"max_seq_length": length, "mode": table.options.mode}
                rows.append({**about, "masking_unit": unit, "tokens_per_second": rate})
                print(f"{length:4} tokens, {unit:6} {rate / 1e6:6.1f} M tokens/s", flush=True)
    save("batches", rows)


if __name__ == "__main__":
    main()
