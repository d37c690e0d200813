"""The batch equation with gradient_accumulation_steps, which ds_bert's own recipes leave out."""

from typing import Any

from ds_bert.config import MICRO_BATCH
from ds_bert.deepspeed_files.auto import AUTO
from ds_bert.errors import ConfigurationError, require

_STEPS, _BATCH = "gradient_accumulation_steps", "train_batch_size"


def translate(recipe: dict[str, Any], world_size: int, is_elastic: bool = False) -> list[str]:
    """Solve for what is missing and take the accumulation out, in place; returns notes.

    Args:
        recipe: DeepSpeed's part.
        world_size: number of ranks.
        is_elastic: the accumulation follows from the number of ranks, whatever the file says.

    Raises:
        ConfigurationError: the equation does not hold, or has no solution.
    """
    steps = recipe.pop(_STEPS, AUTO)
    if steps == AUTO:
        return []
    _require_count(_STEPS, steps)
    batch, micro = recipe.get(_BATCH), recipe.get(MICRO_BATCH)
    micro = None if micro == AUTO else micro
    for name, value in ((_BATCH, batch), (MICRO_BATCH, micro)):
        if value is not None:
            _require_count(name, value)
    if batch is None and micro is None:
        return []  # refused with the other sizes
    if is_elastic:
        require(batch is not None, f"{_BATCH} (with elastic_batch)", batch, "the size that stays")
        return [f'"{_STEPS}": {steps} is not kept, elastic_batch makes it follow from the ranks']
    shares = steps * world_size
    if batch is None:
        recipe[_BATCH] = micro * shares
        return [
            f'"{_BATCH}": {micro} x accumulation {steps} x ranks {world_size} = {micro * shares}'
        ]
    if batch % shares or (micro is not None and batch != micro * shares):
        raise ConfigurationError(
            f'"{_BATCH}" {batch} is not {micro or "a micro-batch"} x accumulation {steps} x ranks '
            f"{world_size}; remove {_STEPS}, which follows from the other two"
        )
    recipe[MICRO_BATCH] = batch // shares
    return []


def _require_count(name: str, value: Any) -> None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    require(is_count, name, value, "a whole number of at least 1")
