"""The stages: what each is given, the command that makes it, and what it leaves."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ds_bert import files
from ds_bert.checkpoint.folder import CHECKPOINTS, list_checkpoints
from ds_bert.config import SECTION
from ds_bert.dataset.format import FORMAT, VERSION
from ds_bert.dataset.store import read_meta
from ds_bert.errors import DataError
from ds_bert.pipeline import hours
from ds_bert.pipeline.options import (
    DATA,
    DECIDED,
    EVALUATION,
    EXPORT,
    NEUTRAL,
    PHASES,
    SCORE,
    VOCABULARY,
    flags,
)
from ds_bert.pipeline.plan import Plan
from ds_bert.pipeline.state import State
from ds_bert.text.inputs import TEXT_COLUMN, find_inputs
from ds_bert.text.source import Input, file_state

FILL_MASK = 10  # sentences with guesses, where the plan does not say
_WEIGHTS = "hf/model.safetensors"  # of a checkpoint
# What each stage reads of others; the last phase stands as "model".
_MODEL = "model"
# Options that may name a file or folder: its content decides, not its name alone.
_PLACES = ("model", "init_from", "model_name_or_path", "compare", "train_file", "test_file")
_READS = {
    VOCABULARY: (),
    DATA: (VOCABULARY,),
    PHASES[0]: (DATA,),
    PHASES[1]: (DATA, PHASES[0]),
    EVALUATION: (DATA, _MODEL),
    SCORE: (_MODEL,),
    EXPORT: (_MODEL, EVALUATION),
}


def reads(plan: Plan, stage: str) -> list[str]:
    """The stages whose products a stage reads."""
    return [plan.phases[-1] if name == _MODEL else name for name in _READS[stage]]


def folder_of(plan: Plan, stage: str) -> Path:
    """The file or folder that a stage makes."""
    names = {VOCABULARY: "vocab.txt", EVALUATION: "evaluation.json", SCORE: "score.json"}
    return plan.output_dir / names.get(stage, "model" if stage == EXPORT else stage)


def command(plan: Plan, stage: str) -> list[str]:
    """The arguments of `ds-bert` that make a stage, which is no phase."""
    run, made = str(folder_of(plan, plan.phases[-1])), str(folder_of(plan, stage))
    options = plan.options(stage)
    given = flags(options)
    if stage == VOCABULARY:
        text = [] if "model_name_or_path" in options else _text_flags(plan)
        return ["create-vocab", *text, *given, "--vocab_file", made, "--overwrite"]
    data = plan.preprocess_options
    if stage == DATA:
        folders = {k: data[k] for k in ("vocab_file", "output_dir", "validation_dir")}
        return ["preprocess", *_text_flags(plan), *given, *flags(folders), "--overwrite"]
    if stage == EVALUATION:
        guesses = [] if "fill_mask" in options else ["--fill_mask", str(FILL_MASK)]
        where = ["--checkpoint", run, "--data", data["validation_dir"], "--output", made]
        return ["evaluate", *where, "--format", "table", *guesses, *given]
    if stage == SCORE:
        return ["score", "--checkpoint", run, "--output", made, *given]
    metrics = str(folder_of(plan, EVALUATION))
    where = ["--checkpoint", run, "--output_dir", made, "--overwrite", "--metrics", metrics]
    return ["export", *where, *given]


def recipe(plan: Plan, phase: str, max_steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """DeepSpeed's part and ds_bert's section of a phase's recipe, complete."""
    engine, section = plan.recipe(phase)
    data = plan.preprocess_options
    every = max(1, max_steps // hours.INTERVALS)
    placed = {
        "train_data": data["output_dir"],
        "validation_data": data["validation_dir"],
        "output_dir": str(folder_of(plan, phase)),
        "max_steps": max_steps,
    }
    if phase != PHASES[0]:
        placed["init_from"] = str(folder_of(plan, PHASES[0]))
    intervals = {
        "log_interval": max(1, max_steps // hours.ROWS),
        "eval_interval": every,
        "save_interval": every,
    }
    if section.get("keep_every"):
        intervals["save_interval"] = section["keep_every"]
    return engine, {**intervals, **section, **_shortened(section, max_steps), **placed}


def _shortened(section: dict[str, Any], max_steps: int) -> dict[str, int]:
    """Steps of warm-up and decay that fit into a phase; both as much shorter as they have to be."""
    names = ("warmup_steps", "decay_steps")
    steps = {name: section[name] for name in names if section.get(name)}
    shares = sum(section.get(name) or 0.0 for name in ("warmup_proportion", "decay_proportion"))
    room = max(0, int(max_steps * (1 - shares)))
    if (total := sum(steps.values())) <= room:
        return steps
    return {name: value * room // total for name, value in steps.items()}


def _text_flags(plan: Plan) -> list[str]:
    casing = [] if plan.do_lower_case else ["--no_do_lower_case"]
    others = {k: v for k, v in plan.of_text.items() if k != "do_lower_case"}
    placed = {"input_file": plan.input_file, "leave_out": str(plan.output_dir)}
    return [*flags({**placed, **others}), *casing]


def options_of(plan: Plan, stage: str) -> dict[str, Any]:
    """The options that decide what comes out of a stage, as JSON values."""
    neutral = NEUTRAL.get(stage, ())
    if stage in PHASES:
        engine, section = plan.recipe(stage)
        left_out = {*neutral, *DECIDED}
        section = {k: v for k, v in section.items() if k not in left_out}
        engine = {k: v for k, v in engine.items() if k not in left_out}
        return _plain({**engine, SECTION: section, "hours": plan.hours})
    options = {k: v for k, v in plan.options(stage).items() if k not in neutral}
    if stage in (VOCABULARY, DATA):
        options |= plan.of_text
    if stage == DATA:
        options["format"] = [FORMAT, VERSION]
    return _plain(options)


def inputs_of(
    plan: Plan, stage: str, products: Mapping[str, Any], texts: dict[str, Any]
) -> dict[str, Any]:
    """Hashes of what a stage reads, by name; None for what has yet to be made.

    Args:
        plan: of the road.
        stage: its name.
        products: of other stages.
        texts: hashes of files that were read before; new ones are added.
    """
    found = {name: products.get(name) for name in reads(plan, stage)}
    learnt = stage == VOCABULARY and "model_name_or_path" not in plan.options(stage)
    if learnt or stage == DATA:
        found["input_file"] = _text_hashes(plan, texts)
    options = plan.recipe(stage)[1] if stage in PHASES else plan.options(stage)
    for name in _PLACES:
        if options.get(name):
            found[name] = _place_hash(Path(options[name]), texts)
    return _plain(found)


def text_of(plan: Plan) -> list[Input]:
    """The inputs of vocabulary and data; nothing below the road's own folder is one."""
    column = plan.of_text.get("text_column", TEXT_COLUMN)
    return find_inputs(plan.input_file, text_column=column, leave_out=plan.output_dir)


def _text_hashes(plan: Plan, texts: dict[str, Any]) -> list[Any]:
    return [_known(str(one), one.state(), partial(_text_hash, one), texts) for one in text_of(plan)]


def _text_hash(source: Input) -> dict[str, Any]:
    return {k: v for k, v in source.describe().items() if k != "name"}


def _place_hash(place: Path, texts: dict[str, Any]) -> Any:
    """Of a file, or of all files of a folder; None: it is the name of something elsewhere."""
    if place.is_file():
        return _known(str(place), file_state(place), partial(files.hash_file, place), texts)
    if not place.is_dir():
        return None
    return {str(one.relative_to(place)): _place_hash(one, texts) for one in _files_below(place)}


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _known(name: str, state: object, read: Callable[[], Any], texts: dict[str, Any]) -> Any:
    """A hash, read again where size or time of change differ."""
    known = texts.get(name, {})
    if known.get("state") != repr(state):
        texts[name] = known = {"state": repr(state), "content": read()}
    return known["content"]


def product_of(plan: Plan, stage: str) -> Any:
    """Hashes of what a stage has left, as far as it is there; None: nothing."""
    made = folder_of(plan, stage)
    if stage in PHASES:
        newest = next(iter(list_checkpoints(made / CHECKPOINTS)), None)
        if newest is None:
            return None
        weights = newest.facts["files"].get(_WEIGHTS, {}).get("xxh3_128")
        return {"step": newest.step, "weights": weights}
    try:
        if stage == DATA:
            parts = {part: read_meta(made / part) for part in ("train", "validation")}
            return {part: meta["fingerprint"] for part, meta in parts.items()}
        return files.hash_file(made / "model.safetensors" if stage == EXPORT else made)
    except (OSError, DataError, KeyError):
        return None


def products(state: State) -> dict[str, Any]:
    """What is recorded of the stages that are finished."""
    return {name: one.product for name, one in state.stages.items() if one.is_finished}


def _plain(value: Any) -> Any:
    """As it comes back from a file."""
    return json.loads(files.as_json(value))
