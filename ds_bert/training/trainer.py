"""The training loop: step, log, validate, save, stop."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from ds_bert import distributed
from ds_bert.checkpoint.state import set_random_state
from ds_bert.divergence.detector import Divergence, DivergenceDetector, Launched, as_float
from ds_bert.errors import TrainingDiverged
from ds_bert.evaluation.loop import evaluate
from ds_bert.evaluation.metrics import MetricSums, total_loss
from ds_bert.guards import standing, stop
from ds_bert.guards.agreement import require_equal_replicas
from ds_bert.model.batch import SEQUENCES
from ds_bert.optim import bf16_optimizer
from ds_bert.optim.trust_ratios import trust_ratios
from ds_bert.training.batches import Step, TrainingBatches
from ds_bert.training.diverged import stop_diverged
from ds_bert.training.log import RunLog
from ds_bert.training.plan import Plan
from ds_bert.training.saves import Saves, State, model_writer

_SLOW = 5.0  # seconds; in a step that takes longer ranks ask whether to stop,
_PARTS = 16  # between so many parts


class Pending(NamedTuple):
    """The last step, until the host knows how it went.

    Attributes:
        step: its data.
        launched: what diagnosis needs of it.
        skipped: whether it was, as far as DeepSpeed knows.
        flags: of any rank: skipped on the device, loss not a number, asked to stop, slow, and those
            of `Saves`.
    """

    step: Step
    launched: Launched
    skipped: bool
    flags: distributed.Flags


class Trainer:
    """Runs a plan on a DeepSpeed engine from a state to the last step.

    A GPU works on a step while the host goes on to the next. How the step went is read when the
    first micro-batch of the next one is on its way, so the GPU never runs out of work for that.

    Attributes:
        stop: whether this rank was asked to stop.
        settles_late: whether a step's outcome is read in the next one.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Any,
        state: State,
        device: torch.device,
        before_commit: Callable[[], None] = lambda: None,
        request: stop.StopRequest | None = None,
    ):
        self.plan, self.engine, self.state, self.device = plan, engine, state, device
        self.stop, self.config = request or stop.StopRequest(), plan.config
        folder, flops = Path(plan.config.output_dir), engine.module.flops
        self.saves = Saves(plan, engine, state.step, before_commit)
        steps, seconds = self.config.max_steps, self.config.report_seconds
        ramp = plan.batch.ramp
        self.log = RunLog(folder, state.step, steps, device, flops, seconds, ramp.samples_after)
        self._losses = engine.module.losses
        self.sums = MetricSums(self._losses, device)
        self._stop_agreed = self._is_slow = self._was_cut = self._has_stepped = False
        self._skips_logged = state.skipped_steps
        self._batch_size = 0  # sequences of the last step
        self._learning_rate = 0.0  # of the last step; the engine knows that of the next
        self._engine_skips = engine.skipped_steps  # restored with the engine
        self.detector = DivergenceDetector(self.config)
        self.settles_late = device.type == "cuda"
        self._pending: Pending | None = None
        scaler: Any = getattr(engine.optimizer, "loss_scaler", None)
        if hasattr(scaler, "raise_error_at_min_scale"):
            scaler.raise_error_at_min_scale = False  # max_consecutive_skips decides

    def train(self) -> int:
        """Train to `max_steps`; returns the exit code."""
        config, state = self.config, self.state
        batches = TrainingBatches.of(self.plan)
        if batches.left_out.ranges:
            distributed.log(f"samples left out: {batches.left_out}")
        if batches.shape is not None:
            distributed.log(f"shape of micro-batches: {batches.shape}")
        self.engine.train()
        self.engine.module.register_forward_pre_hook(standing.moved)
        self._check_replicas()
        with self.log, self.saves, batches.iterate(state.samples, state.step) as steps:
            while state.step < config.max_steps:
                standing.at("data" if self._has_stepped else "first step", state.step + 1)
                with self.log.waiting():
                    step = next(steps)
                self._step(step)
                last = state.step == config.max_steps
                if last or self._stop_agreed or not self.settles_late or self._is_any_due():
                    self._settle()
                if not self._was_cut:
                    self._do_what_is_due(last)
                if self._stop_agreed and not last:
                    return self._leave()
        return 0

    def _do_what_is_due(self, last: bool) -> None:
        config, number = self.config, self.state.step
        self.saves.go_on_if_done()
        if _is_due(number, config.check_interval):
            self._check_replicas()
        if number % config.log_interval == 0 or last:
            self._log()
        if last or _is_due(number, config.eval_interval):
            self._validate(last)
        if last or self.saves.is_due(number):
            self._save(is_last=last)
            self._stop_agreed = self._stop_agreed or stop.is_agreed(self.stop, self.device)

    def _leave(self) -> int:
        """Stop on request; a save that was due has been made, or begun."""
        self.saves.wait()
        if self.state.step != self.saves.saved_step:
            self._save(is_last=True)
        why = f"at step {self.state.step} ({stop.reasons(self.stop)})"
        distributed.log(f"stopped on request {why}; start again to go on")
        return stop.exit_code(self.stop)

    def _step(self, step: Step) -> None:
        """One optimizer step over the micro-batches of this rank.

        Losses are sums over global counts, so every token weighs the same whatever the number of
        ranks and micro-batches; DeepSpeed averages over both, which `_shares` undoes.
        """
        if self._has_stepped:
            standing.at("step")
        launched = Launched(self.state.step + 1, step.first_sample)
        for number, batch in enumerate(step.micro_batches, 1):
            # Steps of a ramp have fewer of them than the engine was told.
            self.engine.set_gradient_accumulation_boundary(number == len(step.micro_batches))
            launched.before_micro_batch()
            sums = self.engine(batch.to(self.device))
            parts = (sums[name].loss / max(step.counts[of], 1) for name, of in self._losses.items())
            loss = sum(parts)
            self.engine.backward(loss * self._shares)
            launched.after_micro_batch(loss)
            self._settle()  # the step before, whose outcome the next update depends on
            if self._stop_agreed or self._is_stopped_within(number - 1, len(step.micro_batches)):
                set_random_state(launched.random_states[0])
                self._was_cut = self._stop_agreed = True
                return
            self._learning_rate = launched.learning_rate = self.engine.get_lr()[0]
            launched.loss_scale = self._loss_scale()
            self.engine.step()
            self.sums.add(sums, batch.counts)
            self.log.count(batch)
        self._has_stepped = True
        self._finish(step, launched)

    def _is_stopped_within(self, number: int, size: int) -> bool:
        """Whether the step is given up after this micro-batch; only slow ones are worth asking."""
        is_part = number % max(1, size // _PARTS) == 0
        return self._is_slow and is_part and stop.is_agreed(self.stop, self.device)

    def _finish(self, step: Step, launched: Launched) -> None:
        """Count the step, and ask how it went."""
        self.state.step += 1
        self._batch_size = step.counts[SEQUENCES]
        self.state.samples = step.first_sample + self._batch_size
        self.log.advance()
        launched.gradient_norm = self.engine.get_global_grad_norm()
        skipped = self.engine.skipped_steps > self._engine_skips
        flags = (
            bf16_optimizer.skipped(self.engine),
            ~torch.isfinite(launched.loss),
            bool(self.stop.reason),
            time.monotonic() - standing.NOW.since > _SLOW,
            *self.saves.flags(),
        )
        self._pending = Pending(step, launched, skipped, distributed.Flags(flags, self.device))

    def _settle(self) -> None:
        """Take in how the last step went, if that is not done yet."""
        if self._pending is None:
            return
        pending, self._pending, state = self._pending, None, self.state
        self._settled = pending.step, pending.launched
        skipped_on_device, not_finite, asked, self._is_slow, *of_saves = pending.flags.read()
        self.saves.hear(*of_saves)
        if skipped_on_device:
            bf16_optimizer.take_back(self.engine)
        skipped = pending.skipped or skipped_on_device
        self._engine_skips = self.engine.skipped_steps
        self._stop_agreed = self._stop_agreed or asked
        state.skipped_steps += skipped
        state.consecutive_skips = state.consecutive_skips + 1 if skipped else 0
        if skipped:
            distributed.log(f"step {pending.launched.number}: skipped, a gradient was not finite")
        found = self.detector.after_step(
            pending.launched.figures(skipped), state.consecutive_skips, not_finite
        )
        if found is not None:
            self._diverged(found)

    def _is_any_due(self) -> bool:
        """Whether something comes after this step that has to know its outcome."""
        config, number = self.config, self.state.step
        intervals = (config.check_interval, config.log_interval, config.eval_interval)
        return self.saves.is_due(number) or any(_is_due(number, each) for each in intervals)

    @property
    def _shares(self) -> int:
        return self.plan.batch.world_size * self.plan.batch.accumulation_steps

    def _loss_scale(self) -> float | None:
        if not self.engine.fp16_enabled():
            return None
        return getattr(self.engine.optimizer, "loss_scale", 1.0)

    def _diverged(self, found: Divergence) -> NoReturn:
        with self.log.paused():
            self.saves.wait()
            writer = model_writer(self.plan, self.engine.module, self.state)
            stop_diverged(found, self.plan, self.engine, *self._settled, self.detector, writer)

    def _log(self) -> None:
        metrics = self.sums.over_ranks()
        loss = total_loss(metrics)
        found = self.detector.at_log(loss, self.state.skipped_steps - self._skips_logged)
        if found is not None:
            self._diverged(found)
        self._skips_logged = self.state.skipped_steps
        self.log.log_training(
            metrics
            | {
                "loss": loss,
                "samples": self.state.samples,
                "batch_size": self._batch_size,
                "learning_rate": self._learning_rate,
                "gradient_norm": as_float(self.engine.get_global_grad_norm()),
                "skipped_steps": self.state.skipped_steps,
                "loss_scale": self._loss_scale(),
                "trust_ratios": trust_ratios(self.engine),
            }
        )

    def _check_replicas(self) -> None:
        if self.config.check_interval:
            position = {"step": self.state.step, "samples": self.state.samples}
            require_equal_replicas(self.engine.module, position)

    def _validate(self, last: bool) -> None:
        """Validate, unless asked to stop meanwhile; the last one goes on to its end."""
        table = self.plan.validation_table
        if table is None or (self._stop_agreed and not last):
            return
        standing.at("validation")
        poll = (lambda: None) if last else stop.Poll(self.stop, self.device)
        sizes = self.config.eval_batch_size, self.config.max_eval_sequences
        try:
            with self.log.paused("validation"):
                metrics = evaluate(self.engine.module, table, self.device, *sizes, poll=poll)
        except stop.StopAgreed:
            self._stop_agreed = True
            return
        self.log.log_validation(metrics)

    def _save(self, is_last: bool) -> None:
        with self.log.paused("save"):
            try:
                writer = model_writer(self.plan, self.engine.module, self.state)
                self.saves.save(self.state, writer, is_last)
            except TrainingDiverged as error:
                self._diverged(Divergence(str(error), 1))


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
