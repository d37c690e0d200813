"""Runs whose collectives are counted: the recipe's part for DeepSpeed, by name."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from collectives import Collectives, Counted
from data_util import exit_code

from ds_bert import distributed
from ds_bert.commands.train import main
from ds_bert.training import run, trainer
from ds_bert.training.trainer import Trainer

BF16, FP16 = {"bf16": {"enabled": True}}, {"fp16": {"enabled": True, "initial_scale_power": 4}}
BF16_SUMS = {**BF16, "data_types": {"grad_accum_dtype": "bf16"}}
ADAMW = {"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}
OVERLAP = {"zero_optimization": {"stage": 1, "overlap_comm": True, "reduce_bucket_size": 20_000}}
SEVERAL = {"train_micro_batch_size_per_gpu": 1}  # micro-batches a step; else there is one
CASES = {
    "bf16": BF16,
    "bf16, several micro-batches": {**BF16, **SEVERAL},
    "bf16, overlap_comm": {**BF16, **OVERLAP},
    "bf16, AdamW": {**BF16, **ADAMW},
    "bf16 on the wire": {**BF16, "communication_data_type": "bf16"},
    "bf16 sums": BF16_SUMS,
    "fp16": FP16,
    "fp16, AdamW": {**FP16, **ADAMW},
    "fp32": {},
    "fp32, several micro-batches": SEVERAL,
    "fp32, stage 0": {"zero_optimization": {"stage": 0}},
}
BATCH, STEPS = 8, 2  # sequences, over all ranks; the first step is counted


def write_wire_recipe(folder: Path, data: Path, model: dict, name: str, world_size: int) -> Path:
    """A recipe of a few steps for one of the cases; nothing is due in the step that is counted."""
    (folder / "model.json").write_text(json.dumps(model))
    section = {"model": str(folder / "model.json"), "train_data": str(data), "validation_data": ""}
    section |= {"output_dir": str(folder / "run"), "max_seq_length": 32, "max_steps": STEPS}
    section |= {"log_interval": STEPS, "save_interval": 0, "check_interval": 0}
    recipe = {
        "train_batch_size": BATCH,
        "train_micro_batch_size_per_gpu": BATCH // world_size,
        "optimizer": {"type": "Lamb", "params": {"lr": 1e-3}},
        **CASES[name],
        "ds_bert": section,
    }
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe))
    return path


def count_steps(recipes: list[str], as_deepspeed: bool = False) -> list[Counted]:
    """What one optimizer step of each recipe sends, to be called on every rank.

    Args:
        recipes: their paths.
        as_deepspeed: gradients are added up DeepSpeed's way.
    """
    with contextlib.ExitStack() as stack:
        patch = mock.patch.object
        stack.enter_context(patch(distributed, "shutdown", lambda: None))
        stack.enter_context(patch(distributed, "log", lambda _: None))
        stack.enter_context(patch(Trainer, "_save", lambda *_, **__: None))  # takes most time
        stack.enter_context(patch(trainer, "_SLOW", float("inf")))  # ranks of slow steps ask more
        if as_deepspeed:
            stack.enter_context(patch(run, "scatter_gradients", lambda _: None))
        return [_count_step(recipe) for recipe in recipes]


def _count_step(recipe: str) -> Counted:
    with _counting() as found:
        assert exit_code(main, "--ds_config", recipe) == 0
    return found.found()


@contextlib.contextmanager
def _counting() -> Iterator[Collectives]:
    step, counted = Trainer._step, Collectives()

    def counting(self: Trainer, *arguments) -> None:
        with counted if self.state.step == 0 else contextlib.nullcontext():
            step(self, *arguments)

    with mock.patch.object(Trainer, "_step", counting):
        yield counted
