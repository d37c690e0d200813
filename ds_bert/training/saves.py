"""What a run saves beside engine and random state, when it saves, and what of that is in flight."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ds_bert import distributed
from ds_bert.checkpoint.facts import KERNELS
from ds_bert.checkpoint.folder import CHECKPOINTS
from ds_bert.checkpoint.hf_folder import write_model_folder
from ds_bert.checkpoint.in_flight import InFlight
from ds_bert.checkpoint.part import NotSaved
from ds_bert.checkpoint.saving import WriteModel, save_in_stages, tidy
from ds_bert.guards import standing
from ds_bert.training.plan import Plan

FP8 = "fp8"  # beside what `State` has: the scales


@dataclass
class State:
    """Where a run stands; saved in every checkpoint (with the engine's and the random state)."""

    step: int = 0  # optimizer steps taken, skipped ones included
    samples: int = 0  # sequences consumed: the position in the data
    skipped_steps: int = 0  # steps not applied because a gradient was not finite
    consecutive_skips: int = 0


def device_name(device: torch.device) -> str:
    """Of a GPU the name of its kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class Saves:
    """Saves a run, beside training where `async_save` is set; at most one save is in flight.

    Training stands still while it is copied. Then threads write, and ranks hear in the message of
    each step whether all are done (`flags`, `hear`), so they go on together, and rank 0 commits.
    Left with an error of the run, what is in flight is an attempt that nobody reads.

    Args:
        plan: of the run.
        engine: the DeepSpeed engine.
        step: where this process has started.
        before_commit: called on rank 0 before a checkpoint appears; raises where it must not.

    Attributes:
        folder: the run's `checkpoints`.
        saved_step: of the last checkpoint, or where this process has started.
    """

    def __init__(self, plan: Plan, engine: Any, step: int, before_commit: Callable[[], None]):
        self._plan, self._config, self._engine = plan, plan.config, engine
        self._before_commit = before_commit
        self.folder = Path(plan.config.output_dir) / CHECKPOINTS
        self.saved_step = step
        self._since, self._is_due_by_clock = time.monotonic(), False
        self._in_flight: InFlight | None = None
        self._stage = self._asked_in = 0  # of all saves, counted up
        self._all_are_done = False

    def __enter__(self) -> "Saves":
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_flight is not None and self._in_flight.is_committing:
            self._in_flight.join()  # nothing may appear once the run's folder is given up

    def flags(self) -> tuple[bool, bool]:
        """What other ranks have to hear: a save is due by the clock, and this rank still writes."""
        minutes = (time.monotonic() - self._since) / 60
        is_busy = self._in_flight is not None and self._in_flight.is_busy
        self._asked_in = self._stage
        return 0 < self._config.save_minutes < minutes, is_busy

    def hear(self, is_due: bool, is_busy: bool) -> None:
        """Take in the flags of all ranks; those from before a stage tell nothing of it."""
        self._is_due_by_clock = self._is_due_by_clock or is_due
        is_of_now = self._in_flight is not None and self._asked_in == self._stage
        self._all_are_done = is_of_now and not is_busy

    def is_due(self, step: int) -> bool:
        """Whether a save is due after a step."""
        interval = self._config.save_interval
        return self._is_due_by_clock or (interval > 0 and step % interval == 0)

    def _facts(self) -> dict[str, Any]:
        model = self._engine.module
        kernels = {"device": device_name(model.device), "names": list(model.kernels)}
        return {**self._plan.facts, KERNELS: kernels}

    def go_on_if_done(self) -> None:
        """The next stage of what is in flight, if all ranks are ready for it (a collective)."""
        if self._all_are_done:
            self._go_on()

    def save(self, state: State, write_model: WriteModel, is_last: bool) -> None:
        """Save, or begin to; where that fails training goes on, unless nothing comes after.

        Args:
            state: where the run stands.
            write_model: writes the Hugging Face folder, on rank 0.
            is_last: nothing comes after, so the checkpoint is there when this returns.

        Raises:
            TrainingDiverged: weights or moments are not finite.
            NotSaved: the last one could not be written.
        """
        if self._in_flight is not None:
            distributed.log(f"step {state.step}: the save before is still being written; waiting")
            self.wait()
        later = self._config.async_save and not is_last
        standing.at("copy" if later else "save")
        fp8 = self._engine.module.fp8
        stages = save_in_stages(
            self.folder,
            state.step,
            self._engine,
            asdict(state) | ({} if fp8 is None else {FP8: fp8.scales.state()}),
            self._facts(),
            write_model,
            self._before_commit,
            self._tidy if state.consecutive_skips == 0 else _leave_all,
            later,
        )
        self._in_flight = InFlight(state.step, stages)
        self._go_on(is_last)
        if not later:
            self.wait(is_last)
        self._since, self._is_due_by_clock = time.monotonic(), False

    def wait(self, is_last: bool = False) -> None:
        """Until nothing is in flight (a collective); see `save`."""
        if self._in_flight is not None:
            standing.at("save")
        while self._in_flight is not None:
            self._go_on(is_last)

    def _go_on(self, is_last: bool = False) -> None:
        save, self._in_flight, self._all_are_done = self._in_flight, None, False
        assert save is not None
        self._stage += 1
        try:
            is_over = save.go_on()
        except NotSaved as error:
            self._tell(f"step {save.step}: {error}", is_last)
            is_over = True
        if not is_over:
            self._in_flight = save
        elif save.folder is not None:
            self.saved_step = save.step
            standing.took("save", time.monotonic() - save.since)
            distributed.log(f"saved {save.folder}")
        standing.NOW.saves_beside = self._in_flight is not None

    def _tell(self, problem: str, is_last: bool) -> None:
        if is_last:
            again = f"start again to go on from the last one in {self.folder}"
            raise NotSaved(f"{problem}; make room, then {again}") from None
        distributed.log(f"warning: {problem}; training goes on")

    def _tidy(self, newest: Path) -> None:
        tidy(self.folder, newest, self._config.keep_checkpoints, self._config.keep_every)


def model_writer(plan: Plan, module: Any, state: State) -> WriteModel:
    """Writes a Hugging Face folder with what is known now, at any later time."""
    store = plan.train_table.store
    facts = {
        "steps": f"{state.step:,}",
        "training sequences": f"{state.samples:,} of up to {plan.config.max_seq_length} tokens",
        "tokens in the corpus": f"{len(store.tokens):,}",
    }
    casing = store.do_lower_case
    return lambda folder, weights: write_model_folder(
        folder, module, weights, store.vocabulary, casing, facts
    )


def _leave_all(newest: Path) -> None:
    """After a checkpoint that is no progress: nothing older gives way."""
