"""The road: each stage judged, skipped, gone on with or made; then the report and the summary."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ds_bert import files
from ds_bert.errors import STOPPED_ON_REQUEST, ConfigurationError
from ds_bert.pipeline import verdict as verdicts
from ds_bert.pipeline.options import PHASES
from ds_bert.pipeline.phase import Training
from ds_bert.pipeline.plan import Plan
from ds_bert.pipeline.plan_file import write_plan
from ds_bert.pipeline.process import Runner
from ds_bert.pipeline.stages import (
    command,
    folder_of,
    inputs_of,
    options_of,
    product_of,
    products,
)
from ds_bert.pipeline.state import Record, State
from ds_bert.pipeline.summary import summary, write_report
from ds_bert.training.log import duration


def pretrain(
    plan: Plan,
    launch: Sequence[str],
    restart_from: str | None = None,
    runner: Runner | None = None,
) -> int:
    """Make all stages, or what is left of them.

    Args:
        plan: of the road.
        launch: see `process.check_launch`.
        restart_from: make this stage and all behind it again.
        runner: of the commands; None: each is a process.

    Returns:
        0; the exit code of a stage that has failed; 75 where somebody asked to stop.

    Raises:
        ConfigurationError: training would be lost, or `output_dir` is in use or holds other files.
        DataError: the text, or the task of a score, is not there.
    """
    files.require_folder(plan.output_dir, "output_dir")
    verdicts.require_task(plan)
    state, runner = State.read(plan.output_dir), runner or Runner()
    plan.output_dir.mkdir(parents=True, exist_ok=True)
    with _held(plan.output_dir), runner.listening():
        if restart_from is not None:
            for place in verdicts.restart(plan, state, restart_from):
                _say(f"the run before is kept in {place}")
        verdicts.require_nothing_lost(plan, verdicts.judge(plan, state))
        state.write()
        write_plan(plan)
        for stage in plan.stages:
            if code := _make(plan, state, stage, launch, runner):
                return _leave(stage, code)
        state.restarted = None
        state.write()
        page = write_report(plan)
    for line in summary(plan, state, page):
        print(line, flush=True)
    return 0


def _make(plan: Plan, state: State, stage: str, launch: Sequence[str], runner: Runner) -> int:
    """Make one stage, or find that it is made; returns an exit code."""
    found = verdicts.judge_one(plan, state, stage, products(state))
    if found.kind == verdicts.DONE or (found.kind == verdicts.LOST and stage in PHASES):
        _say(f"{stage}: unchanged, skipped")
        return 0
    before = state.stages.get(stage)
    goes_on = found.kind == verdicts.UNFINISHED and before is not None
    if found.kind == verdicts.CHANGED:
        _say(f"{stage}: {'; '.join(found.changes)}: made again")
        if stage in PHASES and folder_of(plan, stage).exists():
            _say(f"the run before is kept in {verdicts.set_aside(folder_of(plan, stage))}")
    elif goes_on:
        _say(f"{stage}: going on")
    else:
        _say(stage)
    inputs = inputs_of(plan, stage, products(state), state.texts)
    record = Record(options_of(plan, stage), inputs)
    if goes_on and before is not None:
        record.seconds, record.facts = before.seconds, before.facts
    state.stages[stage] = record
    state.write()
    code = _run(plan, state, stage, launch, runner)
    if code == 0:
        record.product = product_of(plan, stage)
        assert record.product is not None, f"{stage} has left nothing"
    state.write()
    return code


def _run(plan: Plan, state: State, stage: str, launch: Sequence[str], runner: Runner) -> int:
    """Run a stage, and count its time."""
    start, record = time.monotonic(), state.stages[stage]
    try:
        if stage in PHASES:
            return Training(plan, state, stage, launch, runner).run()
        return runner.run(command(plan, stage))
    finally:
        record.seconds += time.monotonic() - start
        _say(f"{stage}: {duration(record.seconds)}")


def _leave(stage: str, code: int) -> int:
    if code == STOPPED_ON_REQUEST:
        _say(f"{stage}: stopped on request; the same command goes on")
    else:
        _say(
            f"{stage}: ended with exit code {code}, see above; what is done is kept, mend the "
            "cause and give the same command again"
        )
    return code


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Have a folder to oneself."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        files.take_lock(opened)
        yield
    except BlockingIOError:
        raise ConfigurationError(
            f"output_dir {folder}: another ds-bert pretrain works in it; wait for it, or choose "
            "another output_dir"
        ) from None
    finally:
        os.close(opened)


def _say(text: str) -> None:
    print(f"pretrain: {text}", flush=True)
