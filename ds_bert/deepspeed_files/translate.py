"""A DeepSpeed file as a recipe of ds_bert.

What can be said in ds_bert's terms is said in them, and a note tells what was made of it. What
cannot ends with an error that says what it would do, and what does that here. A recipe of ds_bert
comes back as it is, without a note.
"""

import copy
from typing import Any, NamedTuple

from ds_bert.deepspeed_files import batch, keys, optimizer, scheduler
from ds_bert.deepspeed_files.auto import answer_autos


class Translated(NamedTuple):
    """DeepSpeed's part of a recipe, the section of ds_bert, and what there is to say about it."""

    recipe: dict[str, Any]
    section: dict[str, Any]
    notes: list[str]


def translate(recipe: dict[str, Any], section: dict[str, Any], world_size: int) -> Translated:
    """Translate; unknown keys are left for `training.deepspeed_config` to refuse.

    Args:
        recipe: DeepSpeed's keys, as in the file.
        section: ds_bert's own; fields that follow from DeepSpeed's keys are added.
        world_size: ranks of this run.

    Raises:
        ConfigurationError: something that is not offered, contradicts, or is "auto".
    """
    recipe, section = copy.deepcopy(recipe), dict(section)
    notes = keys.translate(recipe)
    answer_autos(recipe)
    notes += optimizer.translate(recipe)
    notes += scheduler.translate(recipe, section)
    notes += batch.translate(recipe, world_size, section.get("elastic_batch") is True)
    return Translated(recipe, section, notes)
