"""The values "auto" of transformers' Trainer: each is answered by what to write."""

from collections.abc import Iterator
from typing import Any

from ds_bert.config import MICRO_BATCH
from ds_bert.errors import ConfigurationError

AUTO = "auto"
_MEANT = (MICRO_BATCH, "gradient_accumulation_steps")  # measured, derived: "auto" is right here
# By the last part of the key; the names are those of TrainingArguments.
_ANSWERS = {
    "train_batch_size": "write the sequences of an optimizer step over all ranks "
    "(per_device_train_batch_size x gradient_accumulation_steps x ranks)",
    "gradient_clipping": "write max_grad_norm, or leave it out: 1.0",
    "enabled": "write true or false",
    "lr": "write learning_rate, the peak",
    "betas": "write [adam_beta1, adam_beta2], or leave it out: [0.9, 0.999]",
    "eps": "write adam_epsilon (1e-8 if you gave none)",
    "weight_decay": "write weight_decay (0.0 if you gave none)",
    "warmup_min_lr": "leave it out: 0",
    "warmup_max_lr": "leave it out: optimizer.params.lr",
    "warmup_num_steps": "write warmup_steps",
    "total_num_steps": "leave it out, and write max_steps in the section ds_bert",
}


def answer_autos(recipe: dict[str, Any]) -> None:
    """Refuse all values "auto" at once.

    Raises:
        ConfigurationError: there are some; what to write for each.
    """
    found = list(_find(recipe))
    if found:
        answers = (f'"{key}": {_ANSWERS.get(key.split(".")[-1], "leave it out")}' for key in found)
        raise ConfigurationError(
            'found "auto", which transformers\' Trainer fills in from its flags; expected a value:'
            "\n  " + "\n  ".join(answers)
        )


def _find(section: dict[str, Any], where: str = "") -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _find(value, f"{where}{key}.")
        elif value == AUTO and key not in _MEANT:
            yield where + key
