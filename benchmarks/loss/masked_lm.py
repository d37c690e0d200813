r"""Whether masked-LM alone learns as transformers' `BertForMaskedLM` with its own data collator.

    python benchmarks/loss/masked_lm.py DATASET VALIDATION          64 tokens, --objective mlm
    python benchmarks/loss/masked_lm.py DATASET VALIDATION --smoke  a few steps, to try the script

"ours" is ds_bert/train.py as users run it. "transformers" is stock `BertForMaskedLM` on the same
sequences, with `DataCollatorForLanguageModeling` for the masks, torch's AdamW and its own order.
Model, batch, rates, decay, clipping and dropout are the same. Weights, order, masks and dropout are
drawn by different generators, so curves can only agree within the noise of seeds: three of each.
Validation is evaluate.py for both, on the same masks.

The data of the committed result, from 20 MB of English novels:

    ds-bert create-vocab --input_file NOVELS --vocab_size 1024 --vocab_file VOCAB
    ds-bert preprocess --input_file NOVELS --vocab_file VOCAB --max_seq_length 64 \
        --objective mlm --validation_fraction 0.05 --output_dir DATASET --validation_dir VALIDATION

Exit code: 0, or 1 if the final losses are further apart than seeds make them (--smoke: always 0).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import numpy as np
import torch
from arms import BETAS, CLIP, SIZES, WEIGHT_DECAY
from machine import ROOT, write
from plot import draw_file
from torch.nn.utils import clip_grad_norm_
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    DataCollatorForLanguageModeling,
)
from verdicts import FINAL, compare_seeds, final, points, smooth

from ds_bert import errors
from ds_bert.dataset.store import InstanceTable, TokenStore
from ds_bert.optim.optimizers import parameter_groups
from ds_bert.optim.schedules import learning_rate_factor

MAX_SEQ_LENGTH, BATCH_SIZE, STEPS, SMOKE_STEPS, SEEDS = 64, 16, 2000, 4, (1, 2, 3)
LEARNING_RATE, WARM_UP, EPS = 3e-3, 0.1, 1e-6
CHART = {"title": "Masked-LM alone, small BERT", "value": "curve", "x": "step", "unit": "nats"}


def command(script: str, *arguments: Any) -> str:
    """Standard output of a command of ds_bert."""
    line = [sys.executable, str(ROOT / "ds_bert" / script), *map(str, arguments)]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout


def train_ours(table: InstanceTable, steps: int, seed: int, folder: Path) -> list[float]:
    """Loss of each step; the model is left in `folder`."""
    config = {"model_type": "bert", "vocab_size": table.store.vocabulary.size, **SIZES}
    (folder / "model.json").write_text(json.dumps(config))
    params = {"lr": LEARNING_RATE, "betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY}
    recipe = {
        "train_batch_size": BATCH_SIZE,
        "train_micro_batch_size_per_gpu": BATCH_SIZE,
        "gradient_clipping": CLIP,
        "optimizer": {"type": "AdamW", "params": params},
        "ds_bert": {
            "objective": "mlm",
            "model": str(folder / "model.json"),
            "train_data": str(table.store.folder),
            "validation_data": "",
            "output_dir": str(folder / "run"),
            "max_seq_length": MAX_SEQ_LENGTH,
            "max_steps": steps,
            "report_seconds": 0,
            "warmup_steps": round(WARM_UP * steps),
            "seed": seed,
            "log_interval": 1,
        },
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    command("train.py", "--ds_config", folder / "recipe.json")
    (folder / "model").symlink_to(folder / f"run/checkpoints/step_{steps}/hf")
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["mlm_loss"] for line in lines]


def train_transformers(table: InstanceTable, steps: int, seed: int, folder: Path) -> list[float]:
    """The same with transformers."""
    torch.manual_seed(seed)
    store = table.store
    store.vocabulary.save(folder / "vocab.txt")
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=store.do_lower_case)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    model = BertForMaskedLM(BertConfig(vocab_size=store.vocabulary.size, **SIZES)).train()
    groups = parameter_groups(model, WEIGHT_DECAY)
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPS)
    epochs = -(-steps * BATCH_SIZE // len(table))
    order = torch.cat([torch.randperm(len(table)) for _ in range(epochs)])
    order = order[: steps * BATCH_SIZE].view(steps, BATCH_SIZE)
    losses = []
    for step, numbers in enumerate(order.tolist()):
        factor = learning_rate_factor(
            step, lr_scheduler_type="linear", max_steps=steps, warmup_steps=round(WARM_UP * steps)
        )
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * factor
        loss = model(**collator([{"input_ids": sequence(table, row)} for row in numbers])).loss
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return losses


def sequence(table: InstanceTable, row: int) -> list[int]:
    """[CLS] A [SEP], without masks."""
    start, length = int(table.rows[row]["a_start"]), int(table.rows[row]["a_length"])
    vocabulary = table.store.vocabulary
    tokens = table.store.tokens[start : start + length].tolist()
    return [vocabulary.cls_id, *tokens, vocabulary.sep_id]


ARMS = {"ours": train_ours, "transformers": train_transformers}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("validation")
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_STEPS} steps, one seed")
    args = parser.parse_args()
    steps = SMOKE_STEPS if args.smoke else STEPS
    table = TokenStore.open(args.dataset).instances(MAX_SEQ_LENGTH)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows: list[dict[str, Any]] = []
    runs: dict[str, list] = {name: [] for name in ARMS}
    for seed in SEEDS[:1] if args.smoke else SEEDS:
        for name, train in ARMS.items():
            with TemporaryDirectory() as folder:
                losses = np.array(train(table, steps, seed, Path(folder)))[:, None]
                flags = ("--checkpoint", f"{folder}/model", "--data", args.validation)
                found = json.loads(command("evaluate.py", *flags))
            runs[name].append(losses)
            row = {"final_loss": final(losses), "validation_loss": found["mlm_loss"]}
            print(f"{name}, seed {seed}: {row}", flush=True)
            curve = points(losses, smooth(losses))
            rows.append({"case": "dropout 0.1", "impl": f"{name}, seed {seed}", **row, **curve})
            write("masked_lm", rows, CHART)
    if args.smoke:
        return 0
    verdict = compare_seeds(runs["ours"], runs["transformers"])
    rows.append({"case": "verdicts", "impl": f"ours - transformers, last {FINAL} steps", **verdict})
    print("  ".join(f"{key} {value:.5g}" for key, value in verdict.items()))
    draw_file(ROOT / write("masked_lm", rows, CHART))
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    errors.exit_with(main)
