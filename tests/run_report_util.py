"""Runs made up for tests of the report."""

import json
import math
from pathlib import Path

from ds_bert.run_report.baselines import Baselines
from ds_bert.run_report.history import Phase

BASE = Baselines(
    unigram=6.5,
    no_context=6.0,
    bigram=4.8,
    pair_majority=0.55,
    pair_entropy=0.688,
    pair_lengths=0.56,
    vocab_size=4096,
    num_tokens=1_000_000,
    num_sequences=20_000,
    unknown_share=0.001,
    pieces_per_word=1.3,
    near_duplicates=0.01,
    repeated_sentences=0.02,
)
STEPS = 1000


def train_row(step: int, **other) -> dict:
    """A row of a run that learns as it should."""
    progress = step / STEPS
    mlm = 5.0 + 3.3 * math.exp(-8 * progress) + 0.02 * math.sin(step)
    nsp = 0.688 - 0.3 * max(0.0, progress - 0.2)
    rate = 1e-3 * (progress / 0.1 if progress < 0.1 else (1 - progress) / 0.9)
    row = {
        "kind": "train",
        "step": step,
        "time": 1000.0 + step,
        "started": 1000.0,
        "mlm_loss": mlm,
        "mlm_accuracy": 0.3 * progress,
        "nsp_loss": nsp,
        "nsp_accuracy": 0.55 + 0.3 * progress,
        "num_sequences": 320,
        "num_masked_tokens": 3000,
        "num_tokens": 20_000,
        "masked_share": 0.15,
        "learning_rate": rate,
        "gradient_norm": 1.5 - 0.5 * progress,
        "skipped_steps": 0,
        "loss_scale": None,
        "tokens_per_second": 5000.0,
        "interval_seconds": 4.0,
        "validation_seconds": 0.0,
        "save_seconds": 0.0,
        "data_wait_share": 0.01,
        "memory_bytes": 10**9,
        "mfu": None,
        "trust_ratios": {"embeddings": 0.1, "layer 0": 0.2, "layer 1": 0.3, "heads": 0.4},
    }
    row |= other
    return row | {"loss": row["mlm_loss"] + row["nsp_loss"]} | other


def validation_row(step: int, **other) -> dict:
    names = ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "masked_share")
    row = {name: value for name, value in train_row(step).items() if name in names}
    place = {"kind": "validation", "step": step, "time": 1000.0 + step, "started": 1000.0}
    return {**place, "num_sequences": 2000, **row} | other


def healthy_rows(steps: int = STEPS) -> list[dict]:
    rows = []
    for step in range(10, steps + 1, 10):
        rows.append(train_row(step))
        if step % 100 == 0:
            rows.append(validation_row(step))
    return rows


def record(**section) -> dict:
    return {
        "ds_bert": {
            "max_steps": STEPS,
            "warmup_steps": 100,
            "warmup_proportion": None,
            "max_seq_length": 64,
            "init_from": None,
            **section,
        },
        "batch": {"train_batch_size": 32},
        "optimizer": {"type": "Lamb", "params": {"lr": 1e-3}},
        "deepspeed": {"gradient_clipping": 1.0},
        "model_config": {"num_hidden_layers": 2},
        "device": "cpu",
    }


def phase(rows: list[dict] | None = None, **section) -> Phase:
    return Phase(Path("run"), healthy_rows() if rows is None else rows, record(**section))


def write_run(folder: Path, rows: list[dict] | None = None, **section) -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps(row) + "\n" for row in (healthy_rows() if rows is None else rows)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    (folder / "config.json").write_text(json.dumps(record(**section)))
    return folder


def changed(rows: list[dict], change, kind: str = "train") -> list[dict]:
    """The rows, those of one kind changed by a function of the row that returns what is new."""
    return [row | change(row) if row["kind"] == kind else row for row in rows]
