"""A recipe while it is made of the flags of another system, over a file or over nothing."""

import copy
import math
from collections.abc import Iterable
from typing import Any

from ds_bert import launcher
from ds_bert.config import MICRO_BATCH, SECTION, TrainingConfig
from ds_bert.dialects.flags import Given
from ds_bert.errors import ConfigurationError

AUTO = "auto"  # in DeepSpeed files of Hugging Face: to be filled from the flags
_ACCUMULATION = "gradient_accumulation_steps"


class Draft:
    """What a command line becomes.

    Attributes:
        recipe: DeepSpeed's keys and the section "ds_bert".
        answers: lines for the user, in the order of the flags.
        environment: variables to set before torch is imported.
        world_size: number of ranks, as the launcher says.
    """

    def __init__(
        self,
        given: Given,
        base: dict[str, Any] | None = None,
        own: dict[str, list[str]] | None = None,
    ):
        """Begin with a file, whose values stay unless a flag says otherwise.

        Args:
            given: flags of the script.
            base: a DeepSpeed file, perhaps with a section "ds_bert".
            own: flags of our command, with their words.
        """
        self.given = given
        self.recipe = copy.deepcopy(base or {})
        self._of_file = set(self.recipe)
        self._own = own or {}
        self.answers: list[str] = []
        self.environment: dict[str, str] = {}
        self.world_size = launcher.place()[1]

    def put(self, path: str, value: Any, *flags: str) -> None:
        """Set a value: if a flag was given; else as default, where the file leaves it open.

        Args:
            path: keys, joined by dots.
            value: what they get.
            flags: that it comes from; none: a default of the system alone.
        """
        *sections, key = path.split(".")
        inside: Any = self.recipe
        for section in sections:
            inside = inside.get(section, {})
        found = inside.get(key)
        is_absent = found is None and path.split(".")[0] not in self._of_file
        is_open = (is_absent or found == AUTO) and not self._is_ours
        if is_open or not self.given.explicit.isdisjoint(flags):
            inside = self.recipe
            for section in sections:
                inside = inside.setdefault(section, {})
            inside[key] = value

    def fill(self, path: str, value: Any) -> None:
        """Set a value that the file leaves to the flags with "auto"."""
        *sections, key = path.split(".")
        inside: Any = self.recipe
        for section in sections:
            inside = inside.get(section, {})
        if inside.get(key) == AUTO:
            inside[key] = value

    def put_warmup(self, name: str, value: float, *flags: str) -> None:
        """Set warmup_steps or warmup_proportion, of which a recipe has one."""
        section = self.recipe.get(SECTION, {})
        other = {"warmup_steps": "warmup_proportion", "warmup_proportion": "warmup_steps"}[name]
        if other in section and self.given.explicit.isdisjoint(flags):
            return
        section.pop(other, None)
        self.put(f"{SECTION}.{name}", value, *flags)

    def own(self, name: str) -> list[str]:
        """Words of a field of ours: of its flag, or of our recipe that is completed."""
        value = self.recipe.get(SECTION, {}).get(name)
        if value is None and self._is_ours:
            value = getattr(TrainingConfig, name)
        return self._own.get(name) or ([str(value)] if value else [])

    def length(self) -> Any:
        """max_seq_length: as given, or of our recipe, or the system's default."""
        name = "max_seq_length"
        words = [] if name in self.given.explicit else self.own(name)
        return int(words[0]) if words else self.given[name]

    def put_fields(self, fields: dict[str, tuple[Any, ...]]) -> None:
        """Set fields of the section "ds_bert": name -> value, flags that it comes from."""
        for name, (value, *flags) in fields.items():
            self.put(f"{SECTION}.{name}", value, *flags)

    def put_batch(self, micro_batch: int, accumulation: int, *flags: tuple[str, ...]) -> None:
        """Set the batch from sequences per forward pass and rank, and passes per step.

        Args:
            micro_batch: sequences.
            accumulation: passes.
            flags: those that the first comes from, those of the second.
        """
        if self._is_ours and self.given.explicit.isdisjoint({*flags[0], *flags[1]}):
            return
        asked = [not self.given.explicit.isdisjoint(names) for names in flags]
        of_file = [self._number(MICRO_BATCH), self._number(_ACCUMULATION)]
        whole = self._number("train_batch_size")
        self.recipe.pop(_ACCUMULATION, None)
        micro_batch = of_file[0] if of_file[0] and not asked[0] else micro_batch
        self.recipe[MICRO_BATCH] = micro_batch
        if whole and not any(asked):
            return
        accumulation = of_file[1] if of_file[1] and not asked[1] else accumulation
        self.recipe["train_batch_size"] = micro_batch * accumulation * self.world_size

    def _number(self, key: str) -> int | None:
        value = self.recipe.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def micro_batch(self) -> int:
        """Sequences of a forward pass and rank; 1 if they are measured."""
        return self._number(MICRO_BATCH) or 1

    @property
    def _is_ours(self) -> bool:
        """Whether the file is a recipe of ds_bert, whose gaps have ds_bert's defaults."""
        return SECTION in self._of_file

    @property
    def batch(self) -> int:
        """Sequences of an optimizer step; `put_batch` comes before."""
        return self.recipe["train_batch_size"]

    def say(self, flag: str, text: str) -> None:
        """Answer a flag that was given."""
        if flag in self.given.explicit:
            self.answers.append(f"--{flag}: {text}")

    def close(self) -> dict[str, Any]:
        """The recipe, without what nobody has filled in.

        Raises:
            ConfigurationError: a number is still missing.
        """
        _drop_auto(self.recipe)
        if "train_batch_size" not in self.recipe:
            raise ConfigurationError("no batch size: give train_batch_size in the DeepSpeed file")
        return self.recipe


def _drop_auto(section: dict[str, Any]) -> None:
    for key, value in list(section.items()):
        if isinstance(value, dict) and key != SECTION:
            _drop_auto(value)
        elif value == AUTO and key != MICRO_BATCH:
            del section[key]


def share_of(value: float, total: int) -> int:
    """Steps, given as a number or, below 1, as a share of all (transformers: rounded up)."""
    return math.ceil(value * total) if value < 1 else int(value)


def refuse_if(holds: bool, message: str) -> None:
    """Refuse what cannot be had.

    Raises:
        ConfigurationError: `holds`.
    """
    if holds:
        raise ConfigurationError(message)


def one(values: Iterable[str] | str | None) -> list[str]:
    """File names of a flag: a list, or a comma list."""
    if values is None:
        return []
    names = [values] if isinstance(values, str) else values
    return [name for value in names for name in value.split(",") if name]
