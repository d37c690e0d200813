"""Small data sets and recipes for tests of training."""

import json
from pathlib import Path

import torch
from data_util import make_store
from torch.nn.utils.rnn import pad_sequence

MODEL = {
    "model_type": "bert",
    "vocab_size": 1500,
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def make_data(folder: Path, golden: Path, name: str = "en_a.txt", **options) -> Path:
    """A data set of sequences of 32 and 64 tokens."""
    options = {"max_seq_length": (32, 64), **options}
    vocabulary = options.pop("vocab_file", golden / "vocab/uncased_vocab.txt")
    return make_store(folder, golden / "inputs" / name, vocabulary, **options).folder


def write_recipe(folder: Path, data: Path, *, section=None, **engine) -> Path:
    """A recipe for a few steps of a very small model; returns its path."""
    (folder / "model.json").write_text(json.dumps(MODEL))
    recipe = {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 2,
        "optimizer": {"type": "Lamb", "params": {"lr": 0.05, "weight_decay": 0.01}},
        **engine,
        "ds_bert": {
            "model": str(folder / "model.json"),
            "train_data": str(data),
            "validation_data": str(data),
            "output_dir": str(folder / "run"),
            "max_seq_length": 32,
            "max_steps": 4,
            "warmup_steps": 2,
            "log_interval": 2,
            "eval_interval": 0,
            "save_interval": 0,
            "report_seconds": 0,
            **(section or {}),
        },
    }
    path = folder / "recipe.json"
    path.write_text(json.dumps({key: value for key, value in recipe.items() if value is not None}))
    return path


def padded(batch):
    """The batch as stock transformers takes it."""
    labels = torch.full_like(batch.input_ids, -100, dtype=torch.int64)
    labels[batch.masked_lm_positions] = batch.masked_lm_labels
    parts = [batch.input_ids, batch.token_type_ids, torch.ones_like(labels), labels]
    names = ["input_ids", "token_type_ids", "attention_mask", "labels"]
    values = [0, 0, 0, -100]
    split = {
        name: pad_sequence(
            part.split(batch.sequence_lengths), batch_first=True, padding_value=value
        )
        for name, part, value in zip(names, parts, values, strict=True)
    }
    return split | {"next_sentence_label": batch.next_sentence_labels}
