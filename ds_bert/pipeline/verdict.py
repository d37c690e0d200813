"""What is to be done with each stage, and what must not be done without being asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ds_bert.checkpoint.folder import CHECKPOINTS, candidates
from ds_bert.errors import ConfigurationError, DataError
from ds_bert.pipeline.options import PHASES, SCORE
from ds_bert.pipeline.plan import Plan
from ds_bert.pipeline.stages import folder_of, inputs_of, options_of, product_of, reads
from ds_bert.pipeline.state import State, differences
from ds_bert.text.hf_datasets import PREFIX

DONE, NEW, UNFINISHED, CHANGED, LOST = "done", "new", "unfinished", "changed", "lost"
FOLLOWS = "follows"  # done, but something that it reads is to be made


class Verdict(NamedTuple):
    """What was found of a stage.

    Attributes:
        kind: one of the words above.
        changes: in words, where it is `CHANGED`.
    """

    kind: str
    changes: tuple[str, ...] = ()


def judge(plan: Plan, state: State) -> dict[str, Verdict]:
    """Look at all stages before any of them is made."""
    known: dict[str, Any] = {}
    found: dict[str, Verdict] = {}
    for stage in plan.stages:
        found[stage] = judge_one(plan, state, stage, known)
        if found[stage].kind in (DONE, LOST):
            known[stage] = state.stages[stage].product
    return found


def judge_one(plan: Plan, state: State, stage: str, known: dict[str, Any]) -> Verdict:
    """Look at one stage.

    Args:
        plan: of the road.
        state: what was done before.
        stage: its name.
        known: products of the stages before; those that have yet to be made are absent.
    """
    record = state.stages.get(stage)
    if record is None:
        return Verdict(NEW)
    inputs = inputs_of(plan, stage, known, state.texts)
    open_ones = {name for name in reads(plan, stage) if name not in known}
    before = {name: value for name, value in record.inputs.items() if name not in open_ones}
    now = {name: value for name, value in inputs.items() if name not in open_ones}
    changes = differences(record.options, options_of(plan, stage)) + [
        f"{name} has other content" for name in sorted(differing(before, now))
    ]
    if changes:
        return Verdict(CHANGED, tuple(changes))
    if not record.is_finished:
        return Verdict(UNFINISHED)
    if product_of(plan, stage) != record.product:
        return Verdict(LOST)
    return Verdict(FOLLOWS if open_ones else DONE)


def differing(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    """Names whose values are not the same."""
    return {name for name in {*before, *now} if before.get(name) != now.get(name)}


def require_nothing_lost(plan: Plan, found: dict[str, Verdict], before: str | None = None) -> None:
    """Refuse to train again what was trained, unless that was asked for.

    Args:
        plan: of the road.
        found: of all stages.
        before: the stage from which all is to be made again.

    Raises:
        ConfigurationError: says what has changed, or is gone.
    """
    stages = plan.stages[: plan.stages.index(before)] if before else plan.stages
    for number, stage in enumerate(stages):
        verdict = found[stage]
        rest = [phase for phase in PHASES if phase in stages[number:]]
        trained = [phase for phase in rest if is_trained(plan, phase)]
        if verdict.kind == CHANGED and trained:
            raise ConfigurationError(
                f"{stage}: {'; '.join(verdict.changes)}, expected what {' and '.join(trained)} "
                f"{'was' if len(trained) == 1 else 'were'} trained with; --restart_from {stage} "
                "makes it and all that follows again and keeps the old training beside it, or "
                "choose another output_dir"
            )
        readers = [name for name in plan.stages if stage in reads(plan, name)]
        is_needed = any(found[name].kind != DONE for name in readers)
        if verdict.kind == LOST and stage in PHASES and is_needed:
            raise ConfigurationError(
                f"{stage}: found no longer the checkpoint that it ended with in "
                f"{folder_of(plan, stage)}, which the next stages read; put it back, or train "
                f"again with --restart_from {stage}"
            )


def require_task(plan: Plan) -> None:
    """Refuse, before hours of training, a task whose files are not there.

    Raises:
        DataError: names the file.
    """
    options = plan.options(SCORE)
    for name in ("train_file", "test_file"):
        path = options.get(name, PREFIX)
        if not path.startswith(PREFIX) and not Path(path).exists():
            raise DataError(
                f'plan, "{SCORE}": {name} {path} is not there, expected a table or data set '
                '(docs/scoring.md); make it first, or leave "score" out of the plan'
            )


def is_trained(plan: Plan, phase: str) -> bool:
    """Whether there is anything that training would have to be done again for."""
    return bool(candidates(folder_of(plan, phase) / CHECKPOINTS))


def restart(plan: Plan, state: State, first: str) -> list[Path]:
    """Forget a stage and all behind it; runs are kept beside, and their new places returned.

    The same command again, after an interruption, goes on with what it has begun.

    Raises:
        ConfigurationError: no such stage, or training before it would be lost.
    """
    if first not in plan.stages:
        raise ConfigurationError(
            f"--restart_from: found {first!r}, expected one of {', '.join(plan.stages)}"
        )
    again, found = plan.stages[plan.stages.index(first) :], judge(plan, state)
    if state.restarted == first and all(found[stage].kind != CHANGED for stage in again):
        return []
    rest = {name: record for name, record in state.stages.items() if name not in again}
    require_nothing_lost(plan, judge(plan, replace(state, stages=rest)), before=first)
    state.stages, state.restarted = rest, first
    runs = [folder_of(plan, stage) for stage in again if stage in PHASES]
    kept = [set_aside(run) for run in runs if run.exists()]
    state.write()
    return kept


def set_aside(folder: Path) -> Path:
    """Give a run's folder another name, which it returns."""
    number = 1
    while (place := folder.with_name(f"{folder.name}.old_{number}")).exists():
        number += 1
    return folder.rename(place)
