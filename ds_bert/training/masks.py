"""The masks of a run: what the recipe says, otherwise what the data set says.

Only training masks follow the recipe. Validation keeps the data set's own, so that runs with
different masks stay comparable.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from ds_bert.checkpoint.facts import OWN_MASKS
from ds_bert.config import TrainingConfig
from ds_bert.dataset.options import NGRAM, PIECE, SPAN, WORD, MaskOptions, mask_fields
from ds_bert.dataset.store import InstanceTable
from ds_bert.errors import ConfigurationError, require

FIELDS = tuple(MaskOptions.__dataclass_fields__)  # the recipe's fields have the same names
_UNITS = {
    PIECE: "single tokens",
    WORD: "whole words",
    NGRAM: "runs of 1 to 3 whole words",
    SPAN: "spans of 1 to 10 whole words, each shown in one way",
}


@dataclass(frozen=True)
class MaskSchedule:
    """Masks of each step; `masked_lm_prob` goes from one value to another in equal steps.

    Attributes:
        first: of the first step.
        last_prob: masked_lm_prob of the last step.
        max_steps: steps of the run.
    """

    first: MaskOptions
    last_prob: float
    max_steps: int

    def at(self, step: int) -> MaskOptions:
        """Masks of a step, 0 to max_steps - 1."""
        start, end = self.first.masked_lm_prob, self.last_prob
        if start == end:
            return self.first
        done = min(step / max(1, self.max_steps - 1), 1.0)
        return replace(self.first, masked_lm_prob=start * (1 - done) + end * done)

    @property
    def most(self) -> MaskOptions:
        """Those of the step with the largest share."""
        largest = max(self.first.masked_lm_prob, self.last_prob)
        return replace(self.first, masked_lm_prob=largest)

    def __str__(self) -> str:
        first = self.first
        change = f" to {self.last_prob:.1%}" if self.last_prob != first.masked_lm_prob else ""
        kept = 1 - first.mask_replace_prob - first.random_replace_prob
        return (
            f"{first.masked_lm_prob:.1%}{change} of the tokens, at most "
            f"{first.max_predictions_per_seq} a sequence, "
            f"{_UNITS[first.unit]}; "
            f"{first.mask_replace_prob:.0%} as [MASK], {first.random_replace_prob:.0%} random, "
            f"{kept:.0%} as they are"
        )


def resolve_masks(config: TrainingConfig, table: InstanceTable) -> MaskSchedule:
    """The masks of a run on a table.

    Where the recipe changes the share alone, the data set's max_predictions_per_seq is scaled with
    it; otherwise it would cut the new share off at the old one.

    Raises:
        ConfigurationError: a value has no meaning for this table, or contradicts its stored masks.
    """
    own = table.options.masks
    given = {name: value for name in FIELDS if (value := getattr(config, name)) is not None}
    end = config.masked_lm_prob_end
    if table.masks is not None:
        _refuse_contradiction(config, own, given)
        if len(table.masks.positions) == 0:
            raise ConfigurationError(
                f"{config.train_data} has no masked token (max_predictions_per_seq is "
                f"{own.max_predictions_per_seq}), nothing to learn from; preprocess with 1 or more"
            )
        return MaskSchedule(own, own.masked_lm_prob, config.max_steps)
    if given.keys() & {"do_whole_word_mask", "masking_unit"}:
        given |= mask_fields(config.do_whole_word_mask, config.masking_unit)
    first = replace(own, **given)
    schedule = MaskSchedule(first, first.masked_lm_prob if end is None else end, config.max_steps)
    if "max_predictions_per_seq" not in given:
        scaled = own.max_predictions_per_seq * schedule.most.masked_lm_prob / own.masked_lm_prob
        limit = min(max(1, round(scaled)), table.options.max_num_tokens)
        schedule = replace(schedule, first=replace(first, max_predictions_per_seq=limit))
    _check(schedule, table.options.max_num_tokens)
    return schedule


def as_fact(schedule: MaskSchedule, table: InstanceTable) -> str:
    """What a checkpoint says of a run's masks: the fields that are not the data set's own."""
    own, fields = asdict(table.options.masks), asdict(schedule.first)
    changed = {name: value for name, value in fields.items() if value != own[name]}
    if "masking_unit" in changed:
        changed["masking_unit"] = schedule.first.unit
    if schedule.last_prob != schedule.first.masked_lm_prob:
        changed["masked_lm_prob_end"] = schedule.last_prob
    return ", ".join(f"{name} {value}" for name, value in changed.items()) or OWN_MASKS


def _refuse_contradiction(config: TrainingConfig, own: MaskOptions, given: dict[str, Any]) -> None:
    if config.masked_lm_prob_end is not None:
        given = {**given, "masked_lm_prob_end": config.masked_lm_prob_end}
    stored = {**asdict(own), "masking_unit": own.unit, "masked_lm_prob_end": own.masked_lm_prob}
    for name, value in given.items():
        if value != stored[name]:
            raise ConfigurationError(
                f"{name} is {value}, but the masks of {config.train_data} are stored, made with "
                f"{stored[name]}; remove {name}, or preprocess with --mode fast"
            )


def _check(schedule: MaskSchedule, max_num_tokens: int) -> None:
    first = schedule.first
    probs = {"masked_lm_prob": first.masked_lm_prob, "masked_lm_prob_end": schedule.last_prob}
    for name, prob in probs.items():
        require(0 < prob < 1, name, prob, "a share between 0 and 1")
    limit = first.max_predictions_per_seq
    expected = f"from 1 to {max_num_tokens}"
    require(1 <= limit <= max_num_tokens, "max_predictions_per_seq", limit, expected)
    shares = (first.mask_replace_prob, first.random_replace_prob)
    holds = min(shares) >= 0 and sum(shares) <= 1
    expected = "shares of at least 0 with a sum of at most 1"
    require(holds, "mask_replace_prob and random_replace_prob", shares, expected)
