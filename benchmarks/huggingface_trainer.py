"""Train stock BertForPreTraining with Hugging Face's Trainer on padded instances of a data set.

python benchmarks/huggingface_trainer.py DATASET --model bert-mini --steps 20 [--bf16]

Prints a JSON object: real tokens per second after the first steps, and the mean loss.
"""

import argparse
import json
import time
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import BertForPreTraining, Trainer, TrainerCallback, TrainingArguments

from ds_bert.dataset.store import InstanceTable, TokenStore
from ds_bert.model.batch import Batch, make_batch
from ds_bert.model.pretrained import read_model_config

WARM_UP = 2  # steps that are not counted


class Padded(Dataset):
    """Instances as the Trainer takes them: padded, labels at all positions, -100 where none."""

    def __init__(self, table: InstanceTable, size: int):
        indices = np.arange(size)
        batch = make_batch(table, indices, np.zeros_like(indices), seed=1)
        self.num_tokens = batch.sequence_lengths
        self.rows = [pad(batch, row, table.max_seq_length) for row in range(size)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return self.rows[row]


def pad(batch: Batch, row: int, length: int) -> dict[str, torch.Tensor]:
    start, stop = batch.cu_seqlens[row : row + 2].tolist()
    positions = batch.masked_lm_positions
    inside = (positions >= start) & (positions < stop)
    values = torch.zeros(3, length, dtype=torch.int64)
    values[0, : stop - start] = batch.input_ids[start:stop]
    values[1, : stop - start] = batch.token_type_ids[start:stop]
    values[2, : stop - start] = 1
    labels = torch.full((length,), -100)
    labels[positions[inside] - start] = batch.masked_lm_labels[inside]
    names = ("input_ids", "token_type_ids", "attention_mask")
    columns = dict(zip(names, values, strict=True))
    return columns | {
        "labels": labels,
        "next_sentence_label": batch.next_sentence_labels[row],
    }


class Clock(TrainerCallback):
    """The time at the end of each step."""

    def __init__(self):
        self.times: list[float] = []

    def on_step_end(self, *_, **__):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--model", default="bert-mini")
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    store = TokenStore.open(args.dataset)
    data = Padded(store.instances(args.max_seq_length), args.batch_size * args.steps)
    config = read_model_config(args.model, store.vocabulary, args.max_seq_length)
    clock = Clock()
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=args.batch_size,
            max_steps=args.steps,
            bf16=args.bf16,
            use_cpu=not torch.cuda.is_available(),
            learning_rate=1e-4,
            weight_decay=0.01,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        model = BertForPreTraining(config)
        result = Trainer(model, arguments, train_dataset=data, callbacks=[clock]).train()
    seconds = np.diff(clock.times[WARM_UP - 1 :])
    rate = sum(data.num_tokens) / args.steps / median(seconds)
    print(json.dumps({"tokens_per_second": rate, "loss": result.training_loss}))


if __name__ == "__main__":
    main()
