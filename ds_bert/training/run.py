"""A run from its plan to its end: engine, start state, record, training loop."""

import io
import json
import platform
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ds_bert import __version__, distributed, files
from ds_bert.checkpoint.branches import finish, set_aside_newer
from ds_bert.checkpoint.facts import KERNELS
from ds_bert.checkpoint.folder import CHECKPOINTS, Checkpoint
from ds_bert.checkpoint.saving import tidy
from ds_bert.checkpoint.state import load_checkpoint
from ds_bert.config import TrainingConfig
from ds_bert.divergence.left_out import roll_back
from ds_bert.errors import ConfigurationError
from ds_bert.guards.agreement import machine, require_agreement
from ds_bert.guards.hosts import warn_about_hosts
from ds_bert.guards.lock import RunLock
from ds_bert.guards.signals import stop_signals
from ds_bert.guards.stop import StopRequest
from ds_bert.guards.watchdog import Watchdog
from ds_bert.model import pretrained
from ds_bert.model.bert import NO_FP8
from ds_bert.model.fp8_trial import give_up_if_slower
from ds_bert.optim.average import forget_average, keep_average
from ds_bert.optim.bf16_optimizer import waitless
from ds_bert.optim.optimizers import build_optimizer
from ds_bert.optim.scatter import scatter_gradients
from ds_bert.optim.schedules import build_scheduler
from ds_bert.preflight import software
from ds_bert.staging.page_cache import Warming
from ds_bert.trackers.names import resolve
from ds_bert.trackers.trackers import Trackers
from ds_bert.training import micro_batch
from ds_bert.training.describe import as_record, describe, what_all_compute
from ds_bert.training.plan import Plan, make_plan
from ds_bert.training.saves import FP8, State, device_name
from ds_bert.training.trainer import Trainer

# What is done with a checked plan in place of training; returns the exit code.
Rehearse = Callable[[Plan, torch.device, StopRequest], int]


def run(config: TrainingConfig, recipe: dict[str, Any], rehearse: Rehearse | None = None) -> int:
    """Check, build, restore and train, or do what is given in its place; returns the exit code."""
    device = distributed.setup(config.watchdog_seconds)
    stop = StopRequest(config.max_seconds)
    watchdog = Watchdog(config.watchdog_seconds, Path(config.output_dir), stop)
    with stop_signals(stop.by_signal), stop.looking(), watchdog:
        if rehearse is None:
            return _run(config, recipe, device, stop)
        if config.rollback:
            roll_back(Path(config.output_dir), dry_run=True)
        return rehearse(_plan(config, recipe, device), device, stop)


def _run(
    config: TrainingConfig, recipe: dict[str, Any], device: torch.device, stop: StopRequest
) -> int:
    output_dir = Path(config.output_dir)
    with RunLock(output_dir) as lock:
        finish(output_dir / CHECKPOINTS)
        if config.rollback:
            roll_back(output_dir)
        stop.look_into(output_dir)
        plan = _plan(config, recipe, device)
        with Warming(plan.train_table):
            return _train(plan, device, lock, stop)


def _plan(config: TrainingConfig, recipe: dict[str, Any], device: torch.device) -> Plan:
    distributed.on_rank_0(lambda: resolve(config.report_to))  # an error before the work begins
    plan = make_plan(config, recipe)
    require_agreement(machine() | what_all_compute(plan))
    warn_about_hosts()
    return micro_batch.settle(plan, device, build_engine)


def _train(plan: Plan, device: torch.device, lock: RunLock, stop: StopRequest) -> int:
    config = plan.config
    distributed.log(describe(plan))
    engine, state = start(plan, device)
    folder = Path(config.output_dir) / CHECKPOINTS
    if plan.resume_from is not None:
        _settle_in(plan, folder, plan.resume_from)
    if state.step >= config.max_steps:
        distributed.log(f"already finished: {state.step:,} of {config.max_steps:,} steps")
        return 0
    distributed.on_rank_0(lambda: _record(plan))
    trainer = Trainer(plan, engine, state, device, lock.check, stop)
    goes_back = config.rollback or config.resume != "auto"
    with Trackers(config.report_to, Path(config.output_dir), state.step, goes_back) as trackers:
        trainer.log.listeners.append(trackers.log)
        return trainer.train()


def _settle_in(plan: Plan, folder: Path, start: Checkpoint) -> None:
    """Where the user goes back, the newer checkpoints become a branch; finish a cut-off pruning."""
    config = plan.config
    is_own = distributed.from_rank_0(start.folder.resolve().parent == folder.resolve())
    if config.resume != "auto":
        branch = set_aside_newer(folder, start.step if is_own else -1)
        if branch is not None:
            distributed.log(
                f"the newer checkpoints are now in {branch}; leave --resume out next time, to go "
                "on from the newest"
            )
    if is_own:
        if distributed.rank() == 0:
            tidy(folder, start.folder, config.keep_checkpoints, config.keep_every)
        distributed.barrier()


def start(plan: Plan, device: torch.device) -> tuple[Any, State]:
    """Build the engine and bring it to where the run starts or goes on."""
    engine, optimizer = build_engine(plan, device)
    torch.manual_seed(plan.config.seed + distributed.rank())  # dropout differs between ranks
    state, scales = State(), None
    if plan.resume_from is not None:
        values = load_checkpoint(plan.resume_from, engine)
        if not plan.config.ema_decay:
            forget_average(optimizer)
        state = State(**{name: values[name] for name in State.__dataclass_fields__})
        scales = values.get(FP8)
    elif plan.moments_from is not None:
        load_checkpoint(plan.moments_from, engine, only_optimizer=True)
        forget_average(optimizer)
        plan.optimizer_entry.restart(optimizer)  # steps count from zero (NVIDIA's phase 2)
        engine.global_steps = engine.global_samples = engine.skipped_steps = engine.micro_steps = 0
    _settle_fp8(plan, engine.module, device, scales)
    return engine, state


def _settle_fp8(plan: Plan, model: Any, device: torch.device, scales: Any) -> None:
    """Go on with a checkpoint's scales; a run that begins in fp8 on a GPU tries whether it pays."""
    if model.fp8 is not None and scales is not None:
        model.fp8.scales.load(scales)
    elif model.fp8 is not None and device.type == "cuda":
        without = partial(plan.prepare, model, device, (*model.kernels, NO_FP8))
        length = plan.config.max_seq_length
        tokens = plan.batch.micro_batch_size * length
        give_up_if_slower(model, tokens, length, without)


def build_engine(plan: Plan, device: torch.device) -> tuple[Any, torch.optim.Optimizer]:
    """The DeepSpeed engine with model, optimizer and schedule; weights as the plan says."""
    import deepspeed

    config = plan.config
    torch.manual_seed(config.seed)  # the same weights on every rank
    model = pretrained.build_model(config.model, plan.model_config, plan.model_class)
    if plan.init_folder is not None:
        source, _ = pretrained.load_model(plan.init_folder, plan.model_class)
        model.load_state_dict(source.state_dict())
    _choose_kernels(plan, model, device)
    optimizer = build_optimizer(model, plan.optimizer)
    scheduler = build_scheduler(optimizer, **config.schedule)
    with waitless(), redirect_stdout(io.StringIO()):  # it prints as it goes
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, lr_scheduler=scheduler, config=plan.engine_config
        )
    scatter_gradients(engine)
    plan.optimizer_entry.bind(optimizer)
    if config.ema_decay:
        keep_average(optimizer, config.ema_decay)
    return engine, optimizer


def _choose_kernels(plan: Plan, model: Any, device: torch.device) -> None:
    """What rank 0 finds, for all ranks; a run that goes on keeps what it has begun with.

    Two that are about as fast may change places at every start. They drop and round differently.
    """
    lines, only = [""], None
    if distributed.rank() == 0:
        found = plan.resume_from.facts.get(KERNELS) if plan.resume_from else None
        if found and found["device"] == device_name(device):
            only = found["names"]
        lines = plan.prepare(model, device, only)
    lines, only = distributed.from_rank_0((lines, model.kernels))
    if distributed.rank() > 0:
        plan.prepare(model, device, only)
    distributed.log(f"{'encoder':>16}: {'; '.join(lines)}")


def _record(plan: Plan) -> None:
    """Write config.json: the resolved configuration and what it ran on."""
    folder = Path(plan.config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    record = as_record(plan) | {
        "versions": {"ds_bert": __version__, **software.packages()},
        "python": platform.python_version(),
        "commit": software.commit(),
        "device": device_name(distributed.local_device()),
    }
    text = json.dumps(record, indent=2, default=str) + "\n"
    try:
        files.write_text(folder / "config.json", text)
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: config.json cannot be written ({error.strerror}); make room, or choose "
            "another output_dir"
        ) from None
