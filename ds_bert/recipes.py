"""The recipes that come with ds_bert, found from any folder, and scaled to another batch."""

import math
from pathlib import Path
from typing import Any

from ds_bert.config import TrainingConfig
from ds_bert.errors import ConfigurationError, require

_IN_REPOSITORY = "ds_configs/"
_RECORDS = "recipes/"  # recipes of record, which may be named without it
_PLANS = "plans"  # of `ds-bert pretrain`: a folder without recipes
_MODEL = "model.json"  # files that end so are models
# Beside the package: in a checkout as it is called there, else as setup.py installs it.
_FOLDERS = [Path(__file__).parent.parent / name for name in (_IN_REPOSITORY, "ds_bert_configs")]


def names() -> list[str]:
    """Names of all recipes, such as "seq128", "demo/seq128" and "recipes/google_base_128"."""
    files = (path.relative_to(folder) for folder in _FOLDERS for path in folder.rglob("*.json"))
    return sorted(
        path.with_suffix("").as_posix()
        for path in files
        if not path.name.endswith(_MODEL) and path.parts[0] != _PLANS
    )


def find(name: str) -> Path:
    """The file of a recipe; a file of the user's comes first.

    Args:
        name: a path, or the name of a recipe that comes with ds_bert.

    Raises:
        ConfigurationError: neither.
    """
    path = find_file(name)
    for known in (name, _RECORDS + name):
        if not path.is_file() and known in names():
            path = find_file(f"{_IN_REPOSITORY}{known}.json")
    if not path.is_file():
        raise ConfigurationError(
            f'ds_config "{name}": no such file, and none of the recipes that come with ds_bert '
            f"({', '.join(names())}); give one of these names, or the path of a JSON file"
        )
    return path


def find_file(path: str) -> Path:
    """The file of this path or, if there is none, the one that stands there in the repository."""
    inside = path.removeprefix(_IN_REPOSITORY)
    if inside != path and not Path(path).exists():
        found = (folder / inside for folder in _FOLDERS if (folder / inside).is_file())
        return next(found, Path(path))
    return Path(path)


def optimizer_params(recipe: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's options in a recipe that may not be checked yet; {} where there are none."""
    section = recipe.get("optimizer")
    params = section.get("params") if isinstance(section, dict) else None
    return params if isinstance(params, dict) else {}


def scale(
    recipe: dict[str, Any], section: dict[str, Any], train_batch_size: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe for another batch; what was changed stands at the end of its description.

    The learning rate goes with the square root of the batch. Steps, those of warm-up and decay too,
    go with its inverse, so that the run sees as many sequences. Intervals stay, in steps.

    Args:
        recipe: DeepSpeed's part; `train_batch_size` and `lr` have to be there.
        section: ds_bert's part.
        train_batch_size: sequences of an optimizer step.

    Raises:
        ConfigurationError: no batch or rate to start from, or a ramp.
    """
    old: Any = recipe.get("train_batch_size")
    params = optimizer_params(recipe)
    for name, value in (("train_batch_size", old), ("optimizer.params.lr", params.get("lr"))):
        is_number = isinstance(value, int | float) and value > 0
        require(is_number, f"scale_train_batch_size: {name}", value, "a number above 0 to scale")
    ramp = section.get("batch_ramp")
    require(ramp is None, "scale_train_batch_size: batch_ramp", ramp, "none; scale it by hand")
    require(train_batch_size >= 1, "scale_train_batch_size", train_batch_size, "at least 1")
    ratio = train_batch_size / old
    lr = params["lr"] * math.sqrt(ratio)
    counts = {"max_steps": section.get("max_steps", TrainingConfig.max_steps)}
    counts |= {name: section.get(name) for name in ("warmup_steps", "decay_step", "decay_steps")}
    counts = {name: value for name, value in counts.items() if value and isinstance(value, int)}
    scaled = {name: max(1, round(value / ratio)) for name, value in counts.items()}
    changes = [f"lr {params['lr']:g} to {lr:g}"]
    changes += [f"{name} {value:,} to {scaled[name]:,}" for name, value in counts.items()]
    note = f"scaled from {old:,} to {train_batch_size:,} sequences a step: {', '.join(changes)}"
    recipe = {
        **recipe,
        "train_batch_size": train_batch_size,
        "optimizer": {**recipe["optimizer"], "params": {**params, "lr": lr}},
    }
    described = f"{section['description']}; {note}" if section.get("description") else note
    return recipe, {**section, **scaled, "description": described}
