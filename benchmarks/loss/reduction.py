"""What it costs to add gradients over ranks in bf16: error of the update against bytes on the wire.

    python benchmarks/loss/reduction.py DATASET [--steps 50]

The same batches of 64 sequences, a BERT of 2 layers of 128 in bf16 with fp32 sums, LAMB, dropout
off, through the deepspeed launcher. "gradient" is the error of the first step's gradient, clipped
(LAMB's first moment), "update" that of all steps' update; both are norms of the difference from
one rank that adds in fp32, by the norm of what that one finds. Ranks that add in fp32 differ from
it by the order of their sums: that is the noise. Bytes are those that a rank sends in a step of
BERT-large by a ring: (ranks - 1) / ranks of all gradients.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import torch
from machine import ROOT, save
from safetensors.torch import load_file
from torch import Tensor

from ds_bert.checkpoint.state import SAFE_GLOBALS

MODEL = {
    "model_type": "bert", "vocab_size": 30_522, "hidden_size": 128, "intermediate_size": 512,
    "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
BATCH, MICRO_BATCH = 64, 8
PARAMETERS = 336_226_108  # of BERT-large
BYTES = {"fp32": 4, "bf16": 2}


def train(dataset: str, ranks: int, reduction: str, steps: int, folder: Path) -> tuple[Tensor, ...]:
    """First moment and weights after `steps` steps, each as one fp32 vector."""
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps(MODEL))
    recipe = {
        "train_batch_size": BATCH,
        "train_micro_batch_size_per_gpu": MICRO_BATCH,
        "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": reduction,
        "optimizer": {"type": "Lamb", "params": {"lr": 5e-3}},
        "ds_bert": {
            "model": str(folder / "model.json"),
            "train_data": dataset,
            "validation_data": "",
            "output_dir": str(folder / "run"),
            "max_steps": steps,
            "lr_scheduler_type": "constant",
            "save_interval": 0,
            "report_seconds": 0,
        },
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    launch = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks)]
    command = [*launch, str(ROOT / "ds_bert/train.py"), "--ds_config", str(folder / "recipe.json")]
    # One thread each: others split products elsewhere, which rounds otherwise.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)
    found = folder / f"run/checkpoints/step_{steps}"
    with torch.serialization.safe_globals(SAFE_GLOBALS):
        states = [torch.load(path, weights_only=True) for path in _partitions(found)]
    moments = [
        values["exp_avg"]
        for state in states
        for values in state["optimizer_state_dict"]["base_optimizer_state"]["state"].values()
    ]
    weights = load_file(found / "hf/model.safetensors")
    return torch.cat(moments), torch.cat([weights[name].flatten() for name in sorted(weights)])


def _partitions(checkpoint: Path) -> list[Path]:
    """The optimizer's files by rank; there are fewer than ten."""
    return sorted(checkpoint.rglob("*optim_states.pt"))


def error(found: Tensor, exact: Tensor, scale: Tensor) -> float:
    """By the norm of `scale`; what is longer than the other holds padding."""
    size = min(len(found), len(exact))
    return float((found[:size] - exact[:size]).double().norm() / scale.double().norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        runs = {}
        for ranks in (1, 2, 4):
            for kind in BYTES:
                runs[ranks, kind] = (
                    train(args.dataset, ranks, kind, 1, folder / f"{ranks}_{kind}_first"),
                    train(args.dataset, ranks, kind, args.steps, folder / f"{ranks}_{kind}"),
                )
                (moment, start), (_, weights) = runs[1, "fp32"]
                first, last = runs[ranks, kind]
                row = {
                    "ranks": ranks,
                    "reduction": kind,
                    "gradient_error": error(first[0], moment, moment),
                    "update_error": error(last[1], weights, weights - start),
                    "bytes": (ranks - 1) / ranks * PARAMETERS * BYTES[kind],
                }
                rows.append(row | {"steps": args.steps})
                print(
                    f"{ranks} ranks {kind}: gradient {row['gradient_error']:.1e}, update "
                    f"{row['update_error']:.1e}, {row['bytes'] / 1e9:.2f} GB",
                    flush=True,
                )
    save("reduction", rows)


if __name__ == "__main__":
    main()
