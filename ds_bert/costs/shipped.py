"""What the recipes that come with ds_bert would reach in a given time."""

from collections.abc import Iterator
from typing import Any

from transformers import BertConfig

from ds_bert import files, recipes
from ds_bert.config import SECTION, TrainingConfig
from ds_bert.costs.hours import Speed, Work
from ds_bert.model.flops import training_flops
from ds_bert.model.pretrained import PRESETS, read_config_file

_MASKED = 0.15  # of the tokens
_VOCABULARY = 30_522  # of a preset: BERT's


def within(limit: float, speed: Speed, work: Work) -> Iterator[str]:
    """A line for each recipe: steps within a time, and the share of its run.

    Args:
        limit: seconds.
        speed: of the machine, which is taken to be the same for all models.
        work: of the run at hand, whose sequences are as full as those of others.
    """
    fill = work.tokens / work.max_seq_length
    for name in recipes.names():
        recipe = files.parse_json(recipes.find(name).read_text(encoding="utf-8"))
        section, batch = recipe[SECTION], recipe["train_batch_size"]
        steps = section.get("max_steps", TrainingConfig.max_steps)
        a_step = batch * _flops(section, fill) / speed.flops_per_second
        done = min(steps, int(limit / a_step))
        share = f"{done:,} of {steps:,} steps ({done / steps:.2%})"
        yield f"{name}: {share}, {done * batch:,} sequences"


def _flops(section: dict[str, Any], fill: float) -> float:
    """Of a sequence, forward and backward."""
    length = max(1, round(section["max_seq_length"] * fill))
    pools = section.get("objective", TrainingConfig.objective) != "mlm"
    return training_flops(_shape(section["model"]), [length], round(_MASKED * length), pools)


def _shape(model: str) -> BertConfig:
    if model.endswith(".json"):
        return read_config_file(recipes.find_file(model))
    # A released model has its preset's name in its own.
    preset = next(name for name in PRESETS if name in model)
    return BertConfig(**PRESETS[preset], vocab_size=_VOCABULARY)
