"""Where a plan comes from: a file of the user, that of an earlier call, or the advisor."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from ds_bert import files
from ds_bert.config import SECTION
from ds_bert.errors import ConfigurationError
from ds_bert.pipeline.options import DATA, DECIDED, EXPORT, PHASES, VOCABULARY
from ds_bert.pipeline.plan import Plan, read_plan
from ds_bert.pipeline.state import PLAN

# Of a recipe; found by the hours, or by the road.
_LEFT_OUT = (*DECIDED, "init_from", "max_steps", "log_interval", "eval_interval", "save_interval")
_EVAL_SEQUENCES = 1000  # of a validation during training
_NO_ADVICE: dict[str, Any] = {PHASES[0]: {}}  # enough to check what the user has given


def find_plan(
    path: str | None, output_dir: str, language: str | None, flags: dict[str, Any]
) -> Plan:
    """The plan of a call.

    Args:
        path: a file; None: the one in the output folder or, where that has none, the advisor's,
            which is written there.
        output_dir: where neither a file nor a flag says so.
        language: of the text, for the advisor.
        flags: input_file, hours and output_dir of the command line, or None each.

    Raises:
        ConfigurationError: neither a plan nor what one could be made of, or a bad plan.
        DataError: there is no text.
    """
    if path is not None:
        return read_plan(path, **flags)
    folder = Path(flags["output_dir"] or output_dir)
    if (folder / PLAN).is_file():
        return read_plan(folder / PLAN, **flags)
    missing = [f"--{name}" for name in ("input_file", "hours") if flags[name] is None]
    if missing:
        raise ConfigurationError(
            f"pretrain: found no plan in {folder} and no {' and no '.join(missing)}, expected a "
            "plan (docs/pretrain.md), or text and hours to make one of: "
            "ds-bert pretrain --input_file text.txt --hours 8"
        )
    given = {**flags, "output_dir": str(folder)}
    Plan({**_NO_ADVICE, **given})
    plan = _advised(given, language)
    write_plan(plan)
    print(f"plan: {folder / PLAN}; edit it and call again: ds-bert pretrain {folder / PLAN}")
    return plan


def write_plan(plan: Plan) -> None:
    """Keep a plan in its output folder; a file that says the same stays as it is.

    Raises:
        ConfigurationError: it cannot be written.
    """
    path = plan.output_dir / PLAN
    with suppress(OSError, ValueError):
        if files.parse_json(path.read_text(encoding="utf-8")) == plan.values:
            return
    files.require_folder(plan.output_dir, "output_dir")
    try:
        plan.output_dir.mkdir(parents=True, exist_ok=True)
        files.write_text(path, files.as_json(plan.values, indent=2) + "\n")
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be written ({error.strerror}); make room, or choose another output_dir"
        ) from None


def _advised(given: dict[str, Any], language: str | None) -> Plan:
    """The plan that the advisor makes; it is told with the reasons."""
    from ds_bert.advice.advise import advise, describe  # torch takes seconds to import
    from ds_bert.advice.corpus import of_text
    from ds_bert.advice.hardware import speed_of

    advice = advise(of_text(given["input_file"]), *speed_of(None), given["hours"], language)
    for name, text in describe(advice):
        print(f"{name:>16}: {text}")
    released = advice.released.name if advice.released else None
    if released is not None:
        vocabulary: dict[str, Any] = {"model_name_or_path": released}
        given = {**given, "do_lower_case": not released.endswith("-cased")}
    else:
        vocabulary = {"vocab_size": advice.vocab_size}
    lengths = zip(PHASES, sorted(advice.steps), strict=False)
    phases = {phase: _phase(advice, length) for phase, length in lengths}
    export = {"language": [language]} if language else {}
    return Plan({**given, VOCABULARY: vocabulary, DATA: {}, **phases, EXPORT: export})


def _phase(advice: Any, length: int) -> dict[str, Any]:
    """A recipe as a phase: without what the hours and the road decide."""
    from ds_bert.advice.advise import recipe_of
    from ds_bert.advice.rules import MAX_EPOCHS

    recipe = recipe_of(advice, length)
    section = recipe.pop(SECTION)
    kept = {name: value for name, value in section.items() if name not in _LEFT_OUT}
    if advice.epochs >= MAX_EPOCHS:  # more would be the same text once more
        kept["max_steps"] = advice.steps[length]
    if length != min(advice.steps):
        kept.pop("model")  # that of the first phase
    return {**recipe, SECTION: {**kept, "max_eval_sequences": _EVAL_SEQUENCES}}
