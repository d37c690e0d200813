"""A plan: one JSON object that says what each stage of the road is given (docs/pretrain.md)."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ds_bert import recipes
from ds_bert.batching.equation import AUTO
from ds_bert.config import MICRO_BATCH, SECTION, TrainingConfig
from ds_bert.deepspeed_files.translate import translate
from ds_bert.errors import ConfigurationError, require
from ds_bert.limits.training import check_type
from ds_bert.pipeline.options import (
    COMMON,
    DATA,
    DECIDED,
    DS_CONFIG,
    OF_TEXT,
    OPTIONS,
    PHASES,
    SCORE,
    STAGES,
    VOCABULARY,
    check_options,
    training_fields,
)
from ds_bert.preprocessing.options import PreprocessOptions
from ds_bert.scoring.options import ScoreOptions
from ds_bert.strict_json import check_keys, load_json
from ds_bert.training.deepspeed_config import check_engine_config

LENGTHS = dict(zip(PHASES, (128, 512), strict=True))  # where a recipe does not say
_VALIDATION_FRACTION = 0.01
_OPTIONAL = (PHASES[1], SCORE)  # stages that are left out where the plan does not name them


@dataclass(frozen=True)
class Plan:
    """A plan that has been checked, as far as that goes without looking at data.

    Attributes:
        values: the JSON object.
    """

    values: dict[str, Any]

    def __post_init__(self):
        check_keys(self.values, [*COMMON, *STAGES], "plan")
        check_options({k: v for k, v in self.values.items() if k in COMMON}, COMMON, "plan")
        for name in ("input_file", "output_dir"):
            require(bool(self.values.get(name)), f"plan: {name}", None, "the key, or the flag")
        piped = "-" in self.input_file
        require(not piped, "plan: input_file", "-", "files: text is read more than once")
        hours = self.hours
        is_time = hours is None or 0 < hours < math.inf
        require(is_time, "plan: hours", hours, "a number above 0")
        require("phase_1" in self.values, 'plan: "phase_1"', None, "a recipe to train with")
        for stage, types in OPTIONS.items():
            check_options(self.options(stage), types, f'plan, "{stage}"')
        for phase in self.phases:
            self._check_phase(phase)
        self._check_vocabulary()
        self._check_data()
        if SCORE in self.values:
            _check_score(self.options(SCORE))

    @property
    def input_file(self) -> list[str]:
        """Names of the text, as `ds-bert preprocess` takes them."""
        return self.values["input_file"]

    @property
    def output_dir(self) -> Path:
        """Where all is written."""
        return Path(self.values["output_dir"])

    @property
    def hours(self) -> float | None:
        """That the whole road may take; None: as long as the steps of the phases take."""
        return self.values.get("hours")

    @property
    def phases(self) -> list[str]:
        """Names of the phases."""
        return [name for name in PHASES if name in self.values]

    @property
    def stages(self) -> list[str]:
        """Names of all stages, in their order."""
        return [name for name in STAGES if name in self.values or name not in _OPTIONAL]

    @property
    def of_text(self) -> dict[str, Any]:
        """Options of vocabulary and data alike."""
        return {name: self.values[name] for name in OF_TEXT if name in self.values}

    @property
    def do_lower_case(self) -> bool:
        """Whether text is lower-cased."""
        return self.values.get("do_lower_case", True)

    def options(self, stage: str) -> dict[str, Any]:
        """What the plan says of a stage that is no phase; of data with the lengths of phases."""
        given = self.values.get(stage, {})
        if stage != DATA or not isinstance(given, dict):
            return given
        lengths = sorted({self.length(phase) for phase in self.phases})
        return {"max_seq_length": lengths, "validation_fraction": _VALIDATION_FRACTION, **given}

    @cached_property
    def recipes(self) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """DeepSpeed's part and ds_bert's section of each phase, in ds_bert's terms."""
        return {phase: _recipe(phase, self.values[phase]) for phase in self.phases}

    def recipe(self, phase: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same of one; a second phase has the first one's model."""
        engine, section = self.recipes[phase]
        model = self.recipes[PHASES[0]][1].get("model", TrainingConfig.model)
        return engine, {"max_seq_length": LENGTHS[phase], "model": model, **section}

    def length(self, phase: str) -> int:
        """Tokens of the sequences of a phase."""
        found = self.recipe(phase)[1]["max_seq_length"]
        check_type(f'plan, "{phase}": max_seq_length', found, int)
        return found

    def _check_phase(self, phase: str) -> None:
        where = f'plan, "{phase}"'
        engine, section = self.recipe(phase)
        check_keys(section, training_fields(), f'{where}, "{SECTION}"')
        for name in (*DECIDED, *(["init_from"] if phase != PHASES[0] else [])):
            found = self.values[phase].get(SECTION, {}).get(name)
            require(found is None, f"{where}: {name}", found, "nothing: the plan decides it")
        if self.hours is None:
            steps = section.get("max_steps")
            require(steps is not None, f"{where}: max_steps", None, 'a number, or "hours" above')
        else:  # its small steps say little of the others' time
            ramp, expected = section.get("batch_ramp"), "nothing where hours are given"
            require(not ramp, f"{where}: batch_ramp", ramp, expected)
        try:
            check_engine_config(engine)
            before: dict[str, Any] = {"init_from": PHASES[0]} if phase != PHASES[0] else {}
            if self.hours is not None:  # then steps are not known yet
                before["max_steps"] = 10**9
            known = {k: v for k, v in section.items() if k not in {*DECIDED, *before}}
            TrainingConfig(**known, **before)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None
        same, model = self.recipe(PHASES[0])[1]["model"], section["model"]
        require(model == same, f"{where}: model", model, f"that of the first phase, {same}")

    def _check_vocabulary(self) -> None:
        options = self.options(VOCABULARY)
        for name in ("vocab_size", "min_frequency", "max_alphabet"):
            value = options.get(name, 1)
            require(value >= 1, f'plan, "{VOCABULARY}": {name}', value, "at least 1")
        if "model_name_or_path" in options and len(options) > 1:
            raise ConfigurationError(
                f'plan, "{VOCABULARY}": found {", ".join(options)}, expected either the vocabulary '
                "of a model or one that is learnt; leave out model_name_or_path, or the others"
            )

    def _check_data(self) -> None:
        try:
            fraction = self.validation_fraction
        except ConfigurationError as error:
            raise ConfigurationError(f'plan, "{DATA}": {error}') from None
        expected = "above 0: the model is judged by held-out text"
        require(fraction > 0, f'plan, "{DATA}": validation_fraction', fraction, expected)
        lengths = self.options(DATA)["max_seq_length"]
        for phase in self.phases:
            length, known = self.length(phase), ", ".join(map(str, lengths))
            is_made = length in lengths
            require(is_made, f'plan, "{phase}": max_seq_length', length, f"of the data: {known}")

    @property
    def preprocess_options(self) -> dict[str, Any]:
        """Arguments of `PreprocessOptions`."""
        folder = self.output_dir / "data"
        return {
            "input_file": self.input_file,
            **self.of_text,
            **self.options(DATA),
            "leave_out": str(self.output_dir),
            "vocab_file": str(self.output_dir / "vocab.txt"),
            "output_dir": str(folder / "train"),
            "validation_dir": str(folder / "validation"),
        }

    @property
    def validation_fraction(self) -> float:
        """Share of the documents that is held out."""
        return PreprocessOptions(**self.preprocess_options).fraction


def read_plan(path: str | Path, **flags: Any) -> Plan:
    """The plan of a file, or of those that come with ds_bert.

    Args:
        path: of the file.
        flags: take the place of its keys, where they are not None.

    Raises:
        ConfigurationError: not readable, an unknown key, or a bad value.
    """
    values = load_json(recipes.find_file(str(path)))
    values |= {name: value for name, value in flags.items() if value is not None}
    if isinstance(values.get("input_file"), str):
        values["input_file"] = [values["input_file"]]
    return Plan(values)


def _recipe(phase: str, given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A phase's recipe: the one that it names with what the plan says on top, or the plan's own."""
    require(isinstance(given, dict), f'plan: "{phase}"', given, "a recipe")
    changed = dict(given)
    name = changed.pop(DS_CONFIG, None)
    base = load_json(recipes.find(name)) if isinstance(name, str) else {}
    require(name is None or bool(base), f'plan, "{phase}": {DS_CONFIG}', name, "a recipe's name")
    own = base.pop(SECTION, {})
    section = changed.pop(SECTION, {})
    require(isinstance(section, dict), f'plan, "{phase}": {SECTION}', section, "an object")
    kept = {k: v for k, v in own.items() if k not in DECIDED and k != "init_from"}
    _refuse_accumulation(phase, {**base, **changed})
    engine, section, _ = translate({**base, **changed}, {**kept, **section}, 1)
    return {MICRO_BATCH: AUTO, **engine}, section


def _refuse_accumulation(phase: str, engine: dict[str, Any]) -> None:
    """What a plan says holds for any number of ranks, and an accumulation does not."""
    found = engine.get("gradient_accumulation_steps", AUTO)
    expected = "nothing: it follows from train_batch_size, micro-batch and ranks"
    require(found == AUTO, f'plan, "{phase}": gradient_accumulation_steps', found, expected)


def _check_score(options: dict[str, Any]) -> None:
    where = f'plan, "{SCORE}"'
    for name in ("task", "train_file", "test_file"):
        found = options.get(name)
        require(bool(found), f"{where}: {name}", found, "what docs/scoring.md says")
    try:
        ScoreOptions(checkpoint="-", **options)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
