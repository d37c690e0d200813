"""What an optimizer step sends to other ranks, counted: as DeepSpeed does it, and as ds_bert does.

    python benchmarks/wire.py

Real runs of a tiny BERT on 1, 2 and 4 CPU ranks. Bytes are those that each rank sends if every
collective is a ring, which is the least: (ranks - 1) / ranks of the vector for a reduce-scatter or
an all-gather, twice that for an all-reduce. (gloo makes its reduce-scatter out of an all-reduce, so
on CPUs more is sent.)
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["DS_ACCELERATOR"] = "cpu"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from collectives import Counted, bytes_of_a_rank
from distributed_util import run_ranks
from machine import ROOT, save
from training_util import MODEL, make_data
from wire_cases import CASES, count_steps, write_wire_recipe

RANKS = (1, 2, 4)
WAYS = {"DeepSpeed": True, "ds_bert": False}


def main() -> None:
    rows = []
    with TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data", ROOT / "tests/golden")
        for ranks in RANKS:
            for way, as_deepspeed in WAYS.items():
                own = Path(folder, f"{ranks} {way}")
                for name, found in zip(CASES, count(own, data, ranks, as_deepspeed), strict=True):
                    rows.append(row_of(name, ranks, way, found))
    tell(rows)
    save("wire", rows)


def count(folder: Path, data: Path, ranks: int, as_deepspeed: bool) -> list[Counted]:
    """What a step of each case sends, the same on all ranks."""
    recipes = []
    for number, name in enumerate(CASES):
        (own := folder / str(number)).mkdir(parents=True)
        recipes.append(str(write_wire_recipe(own, data, MODEL, name, ranks)))
    everyone = run_ranks(count_steps, ranks, recipes, as_deepspeed, timeout=600)
    assert all(answer == everyone[0] for answer in everyone), "ranks differ"
    return everyone[0]


def row_of(name: str, ranks: int, way: str, found: Counted) -> dict:
    messages = [
        f"{calls} {kind} {dtype}: {num_bytes}"
        for (kind, dtype), (calls, num_bytes) in found.items()
    ]
    total = round(bytes_of_a_rank(found, ranks))
    return {"case": name, "ranks": ranks, "way": way, "bytes": total, "messages": messages}


def tell(rows: list[dict]) -> None:
    """One line a case; a message is large if it grows with the model's elements."""
    heads = [f"{way}, {ranks} ranks" for way in WAYS for ranks in RANKS]
    print(f"| bytes | {' | '.join(heads)} | less | large messages | small |")
    print(f"|---|{'---:|' * (len(heads) + 1)}---|---:|")
    for name in CASES:
        found = {(row["way"], row["ranks"]): row for row in rows if row["case"] == name}
        sent = {key: row["bytes"] for key, row in found.items()}
        cells = [f"{sent[way, ranks]:,}" for way in WAYS for ranks in RANKS]
        less = 1 - sent["ds_bert", 4] / sent["DeepSpeed", 4]
        large, small = [], 0
        for message in found["ds_bert", 4]["messages"]:
            what, _, num_bytes = message.partition(": ")
            if int(num_bytes) > 10_000:
                large.append(what)
            else:
                small += int(what.split()[0])
        print(f"| {name} | {' | '.join(cells)} | {less:.0%} | {', '.join(large)} | {small} |")


if __name__ == "__main__":
    main()
