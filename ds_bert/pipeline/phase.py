"""A phase: its recipe, its steps by the hours that are left, and training until it is over."""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_bert import files
from ds_bert.config import SECTION
from ds_bert.costs.hours import Speed, Work
from ds_bert.dataset.store import read_meta
from ds_bert.errors import STOPPED_ON_REQUEST, ConfigurationError, DataError
from ds_bert.pipeline import hours
from ds_bert.pipeline.options import EVALUATION, SCORE
from ds_bert.pipeline.plan import Plan
from ds_bert.pipeline.process import Runner
from ds_bert.pipeline.stages import folder_of, product_of, recipe
from ds_bert.pipeline.state import Record, State
from ds_bert.run_report.history import read_phases
from ds_bert.scoring.cost import num_tokens
from ds_bert.scoring.options import ScoreOptions
from ds_bert.training.deepspeed_config import precision

PROBE_STEPS = 20
_ANY_STEPS = 10_000  # of the recipe that is timed
_COST, _UNTIMED = "cost.json", 5  # steps of a probe
_SHORTEST = 60.0  # seconds of a process that goes on
_STOCK = 3  # so many times slower is a score's stock model in fp32 than ours in bf16, on a CPU
_OVER = 0.85  # of its time: who stops behind it has reached max_time, which leaves time to save
_RESERVE = 4  # steps: who stops with less time left has reached it, too; it leaves two of them


@dataclass
class Training:
    """One phase of a plan.

    Args:
        plan: of the road.
        state: what was done so far.
        phase: name.
        launch: arguments of `ds-bert` that train, without the recipe.
        runner: of the commands.
    """

    plan: Plan
    state: State
    phase: str
    launch: Sequence[str]
    runner: Runner
    _since: float = 0.0  # time at which the process that runs was started

    def run(self) -> int:
        """Train to the end, or go on; returns the exit code.

        Raises:
            ConfigurationError: not one step fits into the hours.
        """
        facts = self._record.facts
        if "max_steps" not in facts and (code := self._settle()):
            return code
        self._count_what_was_killed()
        while True:
            self._write_recipe(facts["max_steps"])
            arguments, before = [*self._recipe_flags(), *self._time_flags()], facts["max_steps"]
            self._since = time.time()
            code = self.runner.run([*self.launch, *arguments], self._changes_pace)
            facts["trained"] = self._trained
            if code != STOPPED_ON_REQUEST or self.runner.is_asked:
                return code
            if facts["max_steps"] == before and not self._end_soon():
                return code

    def _count_what_was_killed(self) -> None:
        """Time of processes whose end was not recorded, such as by kill -9; their log knows it."""
        with suppress(DataError):
            known = read_phases(folder_of(self.plan, self.phase))[-1].seconds
            lost = max(0.0, known - self._record.facts.get("trained", 0.0))
            self._record.facts["trained"] = self._record.facts.get("trained", 0.0) + lost
            self._record.seconds += lost

    @property
    def _record(self) -> Record:
        return self.state.stages[self.phase]

    def _settle(self) -> int:
        """Find the number of steps; returns the exit code of what had to be run for it."""
        section = self.plan.recipe(self.phase)[1]
        if self.plan.hours is None:
            self._record.facts["max_steps"] = section["max_steps"]
            return 0
        given = sum(section.get(name) or 0 for name in ("warmup_steps", "decay_steps"))
        self._write_recipe(max(_ANY_STEPS, 2 * given))
        cost = self._path.with_name(f"{self.phase}.{_COST}")
        ask = ["--dry_run", "--probe_steps", str(PROBE_STEPS), "--cost_file", str(cost)]
        start = time.monotonic()
        if code := self.runner.run([*self.launch, *self._recipe_flags(), *ask]):
            return code
        took = time.monotonic() - start
        values = files.parse_json(cost.read_text(encoding="utf-8"))
        cost.unlink()
        work, speed = Work(**values["work"]), Speed(**values["speed"])
        self._record.facts |= self._fitting(work, speed, took)
        self.state.write()
        return 0

    def _fitting(self, work: Work, speed: Speed, probe_seconds: float) -> dict[str, Any]:
        """The steps of the phase, its time in seconds, and what they follow from."""
        plan, section = self.plan, self.plan.recipe(self.phase)[1]
        assert plan.hours is not None
        a_step = work.train_batch_size * work.flops / speed.flops_per_second
        start = max(0.0, probe_seconds - (PROBE_STEPS + _UNTIMED) * a_step)
        limit = hours.budget(
            3600 * plan.hours,
            self.state.seconds + probe_seconds,
            tail(plan, work, speed),
            self._later(work),
        )
        intervals = section.get("eval_interval"), section.get("save_interval")
        most = section.get("max_steps", 10**9)
        steps = hours.steps_within(work, speed, hours.FILLED * limit - start, *intervals, most)
        if steps < 1:
            raise ConfigurationError(
                f"hours: found {plan.hours:g}, of which {max(0.0, limit):,.0f} s are left for "
                f"{self.phase}; its start takes {start:,.0f} s and a step {a_step:,.2g} s, "
                "expected time for more than one step; give more hours, or a smaller model"
            )
        told = f"{a_step:,.3g} s a step, {limit / 60:,.1f} minutes: {steps:,} steps"
        print(f"pretrain: {self.phase}: {told}", flush=True)
        return {"max_steps": steps, "limit": limit, "restart": start, "seconds_per_step": a_step}

    def _later(self, work: Work) -> float:
        """The share of training that later phases have."""
        rest = self.plan.phases[self.plan.phases.index(self.phase) :]
        if len(rest) == 1:
            return 0.0
        longer = self.plan.length(rest[1]) / self.plan.length(rest[0])
        # Attention grows with the square of the length, at these sizes a small part of the whole.
        found = hours.shares({rest[0]: work.flops, rest[1]: work.flops * longer})
        return found[rest[1]]

    @property
    def _trained(self) -> float:
        """Seconds of all processes that trained, the one that runs included."""
        return self._record.facts.get("trained", 0.0) + time.time() - self._since

    def _changes_pace(self) -> bool:
        """Look, now and then, whether the steps fit the time; whether they have to be changed."""
        facts = self._record.facts
        looks = facts.get("looks", 0)
        if "limit" not in facts or looks >= len(hours.LOOKS):
            return False
        left = facts["limit"] - self._trained
        if left > (1 - hours.LOOKS[looks]) * facts["limit"]:
            return False
        facts["looks"] = looks + 1
        found = pace(folder_of(self.plan, self.phase), self._since)
        if found is None:
            return False
        done, seconds = found
        most = self.plan.recipe(self.phase)[1].get("max_steps", 10**9)
        steps = hours.steps_by_pace(done, facts["max_steps"], seconds, left, facts["restart"])
        return self._change(min(steps, most), f"a step takes {seconds:.3g} s")

    def _end_soon(self) -> bool:
        """Set a near end for a run whose time is over; whether that is so."""
        made, facts = product_of(self.plan, self.phase), self._record.facts
        limit = facts.get("limit", math.inf)
        last = pace(folder_of(self.plan, self.phase), self._since, 2)
        reserve = _RESERVE * last[1] if last else 0.0
        is_over = facts.get("trained", 0.0) > min(_OVER * limit, limit - reserve)
        if made is None or not is_over or facts.get("is_over"):
            return False
        facts["is_over"] = True
        steps = hours.steps_to_end(made["step"], facts["max_steps"])
        self._change(steps, f"its time is over at step {made['step']:,}")
        return True

    def _change(self, steps: int, why: str) -> bool:
        """Set a number of steps; whether it is another one."""
        facts = self._record.facts
        if steps == facts["max_steps"]:
            return False
        told = f"{why}: {steps:,} steps in place of {facts['max_steps']:,}"
        print(f"pretrain: {self.phase}: {told}, the learning rate falls by them", flush=True)
        facts["max_steps"] = steps
        self.state.write()
        return True

    def _time_flags(self) -> list[str]:
        facts = self._record.facts
        if "limit" not in facts or facts.get("is_over"):
            return []
        left = max(_SHORTEST, facts["limit"] - facts.get("trained", 0.0))
        return ["--max_time", f"{left / 60:.2f}"]

    @property
    def _path(self) -> Path:
        return self.plan.output_dir / f"{self.phase}.json"

    def _recipe_flags(self) -> list[str]:
        return ["--ds_config", str(self._path)]

    def _write_recipe(self, max_steps: int) -> None:
        engine, section = recipe(self.plan, self.phase, max_steps)
        text = files.as_json({**engine, SECTION: section}, indent=2) + "\n"
        try:
            files.write_text(self._path, text)
        except OSError as error:
            raise ConfigurationError(
                f"{self._path}: cannot be written ({error.strerror}); make room and give the same "
                "command again"
            ) from None


def pace(run: Path, since: float, num_rows: int | None = None) -> tuple[int, float] | None:
    """The last step of a run's log, and the seconds of one; None where that cannot be told.

    Args:
        run: its folder.
        since: time at which its process was started.
        num_rows: of the log, from its end, that seconds are taken from; None: all of that process.
    """
    with suppress(DataError):
        rows = [row for row in read_phases(run)[-1].rows if row.get("started", 0.0) >= since]
        rows = rows if num_rows is None else rows[-num_rows:]
        if rows and (steps := rows[-1]["step"] - rows[0]["step"]) > 0:
            return rows[-1]["step"], (rows[-1]["time"] - rows[0]["time"]) / steps
    return None


def tail(plan: Plan, work: Work, speed: Speed) -> float:
    """Seconds of what comes after the last phase, about."""
    asked = plan.options(EVALUATION)
    judged = hours.Judged(
        sequences=asked.get("max_eval_sequences") or _held_out(plan, work.eval_sequences),
        sentences=asked.get("pseudo_perplexity", 0),
        scored=score_tokens(plan),
    )
    num_stages = len(plan.stages) - 2 - len(plan.phases)
    return hours.tail_seconds(judged, work.flops / work.tokens, speed.flops_per_second, num_stages)


def score_tokens(plan: Plan) -> float:
    """Tokens of training in the last phase that take as long as the score; 0 without one."""
    options = plan.options(SCORE)
    slower = _STOCK if in_bf16(plan) else 1
    return slower * num_tokens(ScoreOptions(checkpoint="-", **options)) if options else 0.0


def in_bf16(plan: Plan) -> bool:
    """Whether the last phase is."""
    return precision(plan.recipe(plan.phases[-1])[0]) == "bf16"


def _held_out(plan: Plan, otherwise: int) -> int:
    """Sequences of the validation data, of the last phase's length."""
    with suppress(DataError, KeyError):
        lengths = read_meta(Path(plan.preprocess_options["validation_dir"]))["lengths"]
        return lengths[str(plan.length(plan.phases[-1]))]["num_instances"]
    return otherwise
