"""Runs to export from: real data and folders, weights that nobody trained."""

import json

import torch
from training_util import MODEL, make_data
from transformers import BertConfig

from ds_bert import files
from ds_bert.checkpoint.hf_folder import write_model_folder
from ds_bert.checkpoint.manifest import write_manifest
from ds_bert.dataset.store import TokenStore
from ds_bert.exporting.same_model import quiet_transformers
from ds_bert.model.bert import OBJECTIVES


def weights_of(step, objective="mlm+nsp", **changes):
    """The weights at a step, tied ones once, none as a new model has it; and the model."""
    torch.manual_seed(step)
    model = OBJECTIVES[objective](BertConfig(**MODEL | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return {name: value.detach().clone() for name, value in model.named_parameters()}, model


def make_run(folder, data, steps=(2, 4), objective="mlm+nsp", **changes):
    """A run with sealed checkpoints, a recipe and a log; returns its folder."""
    store, run = TokenStore.open(data), folder / "run"
    for step in steps:
        path = run / f"checkpoints/step_{step}"
        weights, model = weights_of(step, objective, **changes)
        casing, facts = store.do_lower_case, {"steps": step}
        with quiet_transformers():
            write_model_folder(path / "hf", model, weights, store.vocabulary, casing, facts)
        entries = {f"hf/{file.name}": files.seal_file(file) for file in (path / "hf").iterdir()}
        write_manifest(path, entries, {"step": step})
    section = {"objective": objective, "validation_data": str(data), "train_data": str(data)}
    section |= {"max_seq_length": 32, "max_steps": 6, "model": "bert-tiny", "init_from": None}
    optimizer = {"type": "Lamb", "params": {"lr": 0.01, "weight_decay": 0.01}}
    record = {"ds_bert": section, "optimizer": optimizer, "batch": {"train_batch_size": 8}}
    record |= {"facts": {"precision": "bf16"}, "versions": {"ds_bert": "0.1.0"}}
    (run / "config.json").write_text(json.dumps(record))
    rows = [row | {"step": step} for step in (2, 4, 6) for row in ROWS]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


ROWS = (
    {"kind": "train", "mlm_loss": 5.0},
    {"kind": "validation", "mlm_loss": 4.5, "perplexity": 90.0, "mlm_accuracy": 0.25},
)


def data_of(folder, golden, **options):
    """A data set to check exports with."""
    return make_data(folder / "validation", golden, **options)
