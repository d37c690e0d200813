"""The training loop: step, log, validate, save, stop."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from ds_bert import distributed
from ds_bert.checkpoint.folder import CHECKPOINTS
from ds_bert.checkpoint.hf_folder import write_model_folder
from ds_bert.checkpoint.saving import NotSaved, save_checkpoint, tidy
from ds_bert.divergence.detector import Divergence, DivergenceDetector, as_float
from ds_bert.divergence.left_out import LeftOut
from ds_bert.errors import STOPPED_ON_REQUEST, TrainingDiverged
from ds_bert.evaluation.loop import evaluate
from ds_bert.evaluation.metrics import MetricSums, total_loss
from ds_bert.guards import standing
from ds_bert.guards.agreement import require_equal_replicas
from ds_bert.training.batches import Step, TrainingBatches
from ds_bert.training.diverged import stop_diverged
from ds_bert.training.log import RunLog
from ds_bert.training.plan import Plan
from ds_bert.training.signals import stop_signals


@dataclass
class State:
    """Where a run stands; saved in every checkpoint (with the engine's and the random state)."""

    step: int = 0  # optimizer steps taken, skipped ones included
    samples: int = 0  # sequences consumed: the position in the data
    skipped_steps: int = 0  # steps not applied because a gradient was not finite
    consecutive_skips: int = 0


class Trainer:
    """Runs a plan on a DeepSpeed engine from a state to the last step.

    Attributes:
        before_commit: called on rank 0 before a checkpoint appears; raises where it must not.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Any,
        state: State,
        device: torch.device,
        before_commit: Callable[[], None] = lambda: None,
    ):
        self.plan, self.engine, self.state, self.device = plan, engine, state, device
        self.before_commit = before_commit
        self.config = plan.config
        folder, flops = Path(plan.config.output_dir), engine.module.flops
        self.checkpoints = folder / CHECKPOINTS
        self.log = RunLog(folder, state.step, self.config.max_steps, device, flops)
        self._losses = engine.module.losses
        self.sums = MetricSums(self._losses, device)
        self._stop_requested = self._has_stepped = False
        self._skips_logged = state.skipped_steps
        self._learning_rate = 0.0  # of the last step; the engine knows that of the next
        self._engine_skips = engine.skipped_steps  # restored with the engine
        self.detector = DivergenceDetector(self.config, device)
        scaler: Any = getattr(engine.optimizer, "loss_scaler", None)
        if hasattr(scaler, "raise_error_at_min_scale"):
            scaler.raise_error_at_min_scale = False  # max_consecutive_skips decides

    def train(self) -> int:
        """Train to `max_steps`; returns the exit code."""
        config, state = self.config, self.state
        batches = TrainingBatches(
            table=self.plan.train_table,
            train_batch_size=self.plan.batch.train_batch_size,
            micro_batch_size=self.plan.batch.micro_batch_size,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            seed=config.seed,
            masking=config.masking,
            masks=self.plan.masks,
            packed=config.packed,
            left_out=LeftOut.of_run(Path(config.output_dir)),
        )
        if batches.left_out.ranges:
            distributed.log(f"samples left out: {batches.left_out}")
        self.engine.train()
        self.engine.module.register_forward_pre_hook(standing.moved)
        self._check_replicas()
        stop_requests, data = (
            stop_signals(self.request_stop),
            batches.iterate(state.samples, state.step),
        )
        with stop_requests, self.log, data as steps:
            while state.step < config.max_steps:
                standing.at("data" if self._has_stepped else "first step", state.step + 1)
                with self.log.waiting():
                    step = next(steps)
                self._step(step)
                if _is_due(state.step, config.check_interval):
                    self._check_replicas()
                last = state.step == config.max_steps
                if state.step % config.log_interval == 0 or last:
                    self._log()
                if last or _is_due(state.step, config.eval_interval):
                    self._validate()
                flags = (self._stop_requested, self.detector.not_finite)
                stop, not_finite = distributed.any_rank(flags, self.device)
                if not_finite:
                    self._diverged(Divergence("the loss is not a number"))
                if last or stop or _is_due(state.step, config.save_interval):
                    self._save(is_last=last or stop)
                if stop and not last:
                    distributed.log(
                        f"stopped on request at step {state.step}; start again to go on"
                    )
                    return STOPPED_ON_REQUEST
        return 0

    def _step(self, step: Step) -> None:
        """One optimizer step over the micro-batches of this rank.

        Losses are sums over global counts, so every token weighs the same whatever the number of
        ranks and micro-batches; DeepSpeed averages over both, which `shares` undoes.
        """
        if self._has_stepped:
            standing.at("step")
        shares = self.plan.batch.world_size * self.plan.batch.accumulation_steps
        self._learning_rate = self.engine.get_lr()[0]
        loss_scale = getattr(self.engine.optimizer, "loss_scale", 1.0)
        self._current = step  # what a capsule is made of
        self.detector.begin_step()
        for batch in step.micro_batches:
            self.detector.before_micro_batch()
            sums = self.engine(batch.to(self.device))
            parts = (sums[name].loss / max(step.counts[of], 1) for name, of in self._losses.items())
            loss = sum(parts)
            self.engine.backward(loss * shares)
            self.engine.step()
            self.detector.after_micro_batch(loss)
            self.sums.add(sums, batch.counts)
            self.log.count(batch)
        self._has_stepped = True
        self._after_step(step, loss_scale)

    def _after_step(self, step: Step, loss_scale: float) -> None:
        state = self.state
        state.step += 1
        state.samples = step.first_sample + self.plan.batch.train_batch_size
        skipped = self.engine.skipped_steps - self._engine_skips
        self._engine_skips = self.engine.skipped_steps
        state.skipped_steps += skipped
        state.consecutive_skips = state.consecutive_skips + 1 if skipped else 0
        self.log.advance()
        if skipped:
            distributed.log(f"step {state.step}: skipped, a gradient was not finite")
        found = self.detector.after_step(
            state.consecutive_skips,
            step=state.step,
            first_sample=step.first_sample,
            learning_rate=self._learning_rate,
            gradient_norm=self.engine.get_global_grad_norm(),
            loss_scale=loss_scale if self.engine.fp16_enabled() else None,
            skipped=bool(skipped),
        )
        if found is not None:
            self._diverged(found)

    def _diverged(self, found: Divergence) -> NoReturn:
        with self.log.paused():
            stop_diverged(
                found, self.plan, self.engine, self._current, self.detector, self._write_model
            )

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
                "learning_rate": self._learning_rate,
                "gradient_norm": as_float(self.engine.get_global_grad_norm()),
                "skipped_steps": self.state.skipped_steps,
            }
        )

    def _check_replicas(self) -> None:
        if self.config.check_interval:
            position = {"step": self.state.step, "samples": self.state.samples}
            require_equal_replicas(self.engine.module, position)

    def _validate(self) -> None:
        if self.plan.validation_table is None:
            return
        standing.at("validation")
        with self.log.paused():
            metrics = evaluate(
                self.engine.module,
                self.plan.validation_table,
                self.device,
                self.config.eval_batch_size,
                self.config.max_eval_sequences,
            )
        self.log.log_validation(metrics)

    def _save(self, is_last: bool) -> None:
        """Save; where that fails training goes on, unless nothing comes after."""
        config, state = self.config, self.state
        standing.at("save")
        with self.log.paused():
            try:
                folder = save_checkpoint(
                    self.checkpoints,
                    state.step,
                    self.engine,
                    asdict(state),
                    self.plan.facts,
                    self._write_model,
                    self.before_commit,
                )
            except TrainingDiverged as error:
                self._diverged(Divergence(str(error), 1))
            except NotSaved as error:
                again = f"start again to go on from the last one in {self.checkpoints}"
                if is_last:
                    raise NotSaved(f"step {state.step}: {error}; make room, then {again}") from None
                distributed.log(f"warning: step {state.step}: {error}; training goes on")
                return
            if state.consecutive_skips == 0:  # without progress nothing older gives way
                tidy(self.checkpoints, folder, config.keep_checkpoints, config.keep_every)
        distributed.log(f"saved {folder}")

    def _write_model(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        store = self.plan.train_table.store
        facts = {
            "steps": f"{self.state.step:,}",
            "training sequences": f"{self.state.samples:,} of up to "
            f"{self.config.max_seq_length} tokens",
            "tokens in the corpus": f"{len(store.tokens):,}",
        }
        module, casing = self.engine.module, store.do_lower_case
        write_model_folder(folder, module, weights, store.vocabulary, casing, facts)

    def request_stop(self, *_: Any) -> None:
        """Ask for a save and an orderly end after the step in progress (a signal handler)."""
        self._stop_requested = True


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
