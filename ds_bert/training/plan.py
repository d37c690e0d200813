"""What a run is going to do: everything checked and every number resolved before it starts."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig

from ds_bert import distributed
from ds_bert.batching.equation import AUTO, BatchPlan, plan_batch
from ds_bert.checkpoint.facts import DECAY_START, EMA_DECAY, check_moments, check_resume
from ds_bert.checkpoint.folder import CHECKPOINTS, Checkpoint, candidates, list_checkpoints
from ds_bert.checkpoint.verify import find_model, newest_good, open_checkpoint
from ds_bert.config import MICRO_BATCH, TrainingConfig
from ds_bert.costs.checkpoint_size import CheckpointSize
from ds_bert.dataset.store import InstanceTable, TokenStore
from ds_bert.errors import CheckpointError, ConfigurationError, DataError, require
from ds_bert.files import require_folder, require_space
from ds_bert.fp8.recipe import Fp8Recipe, check_fp8
from ds_bert.guards import standing
from ds_bert.instances.mixture import SampleOrder
from ds_bert.model import pretrained
from ds_bert.model.bert import OBJECTIVES, UnpaddedBert
from ds_bert.optim.average import AVERAGE_BYTES
from ds_bert.optim.entry import OptimizerEntry
from ds_bert.optim.optimizers import OPTIMIZERS, check_optimizer
from ds_bert.staging.local_copy import local_copy, require_room
from ds_bert.training.deepspeed_config import (
    activation_dtype,
    check_engine_config,
    has_autocast,
    precision,
    resolve_engine_config,
    zero_stage,
)
from ds_bert.training.masks import MaskSchedule, as_fact, resolve_masks


@dataclass(frozen=True)
class Plan:
    """A checked run: the resolved configuration, the data, the model and where to start."""

    config: TrainingConfig
    optimizer: dict[str, Any]
    recipe: dict[str, Any]
    batch: BatchPlan
    train_table: InstanceTable
    validation_table: InstanceTable | None
    masks: MaskSchedule
    order: SampleOrder
    model_config: BertConfig
    resume_from: Checkpoint | None
    init_folder: str | None
    moments_from: Checkpoint | None

    @property
    def engine_config(self) -> dict[str, Any]:
        """The dictionary for `deepspeed.initialize`."""
        return resolve_engine_config(self.recipe, self.batch)

    @property
    def micro_batch_is_open(self) -> bool:
        """Whether the micro-batch is still to be found (`ds_bert.training.micro_batch.settle`)."""
        return self.recipe[MICRO_BATCH] == AUTO

    @property
    def optimizer_entry(self) -> OptimizerEntry:
        """What is known about the optimizer's type."""
        return OPTIMIZERS[self.optimizer["type"]]

    @property
    def average_bytes(self) -> int:
        """Of the weights' moving average, per parameter; 0: none is kept."""
        return AVERAGE_BYTES * (self.config.ema_decay > 0)

    @property
    def checkpoint_size(self) -> CheckpointSize:
        """Of one of the run's checkpoints."""
        return CheckpointSize(
            num_parameters=self.num_parameters,
            precision=precision(self.engine_config),
            state_bytes=self.optimizer_entry.state_bytes + self.average_bytes,
            world_size=self.batch.world_size,
        )

    def with_micro_batch(self, size: int) -> "Plan":
        """The plan for micro-batches of `size` sequences."""
        recipe, ramp = {**self.recipe, MICRO_BATCH: size}, self.config.batch_ramp
        batch = plan_batch(recipe, self.batch.world_size, ramp=ramp)
        return replace(self, recipe=recipe, batch=batch)

    def prepare(self, model: UnpaddedBert, device: torch.device, only: Any = None) -> list[str]:
        """Choose how a model runs on a device; see its `prepare`."""
        compiled = {"auto": None, "on": True, "off": False}[self.config.compile_layers]
        fused = not has_autocast(self.engine_config)  # norms return fp32 there
        return model.prepare(device, self.activation_dtype, compiled, self.fp8, fused, only=only)

    @property
    def fp8(self) -> Fp8Recipe | None:
        """How the layers' products run in fp8; None: in none of them."""
        return Fp8Recipe.of(self.config)

    @property
    def model_class(self) -> type[UnpaddedBert]:
        """The model of the run's objective."""
        return OBJECTIVES[self.config.objective]

    @property
    def num_parameters(self) -> int:
        """Trainable parameters, tied weights counted once."""
        with torch.device("meta"):
            return sum(p.numel() for p in self.model_class.stock(self.model_config).parameters())

    @property
    def activation_dtype(self) -> torch.dtype:
        """What the layers compute in."""
        return getattr(torch, activation_dtype(self.engine_config))

    @property
    def facts(self) -> dict[str, Any]:
        """What goes into a checkpoint, to be compared with (`ds_bert.checkpoint.facts`)."""
        store, config = self.train_table.store, self.config
        is_branch = config.decay_from is not None
        branch = {DECAY_START: config.max_steps - config.num_decay_steps} if is_branch else {}
        average = {EMA_DECAY: config.ema_decay} if config.ema_decay else {}
        return {
            **branch,
            **average,
            "model": {name: getattr(self.model_config, name) for name in pretrained.SHAPE_FIELDS},
            "optimizer": self.optimizer["type"],
            "precision": precision(self.engine_config),
            "zero_stage": zero_stage(self.engine_config),
            "train_batch_size": self.batch.train_batch_size,
            "batch_ramp": config.batch_ramp and config.batch_ramp.replace(" ", ""),
            "world_size": self.batch.world_size,
            "seed": self.config.seed,
            "masking": self.config.masking,
            "masks": as_fact(self.masks, self.train_table),
            "corpus_weights": str(self.order),
            "objective": self.config.objective,
            "max_seq_length": self.config.max_seq_length,
            "vocabulary": store.vocabulary.sha256,
            "train_data": store.fingerprint,
        }


def make_plan(config: TrainingConfig, recipe: dict[str, Any]) -> Plan:
    """Check a configuration against the data, the model, the checkpoints and the machine.

    Raises:
        ConfigurationError, DataError, CheckpointError: what is wrong and what to do.
    """
    check_engine_config(recipe)
    optimizer_type, optimizer_params = check_optimizer(recipe.get("optimizer"))
    ramp = config.batch_ramp
    batch = plan_batch(recipe, distributed.world_size(), config.elastic_batch, ramp)
    if recipe[MICRO_BATCH] != AUTO:
        recipe = {**recipe, MICRO_BATCH: batch.micro_batch_size}
    train_table = _open(config, config.train_data)
    validation_table = _validation_table(config, train_table.store)
    for table in filter(None, (train_table, validation_table)):
        _check_objective(config, table)
    config, resume_from = _find_start(config)
    init_folder, source = None, None
    if config.init_from and resume_from is None:  # verified here, once: that reads all of it
        init_folder, source = find_model(config.init_from)
    model_config = _model_config(config, train_table.store, init_folder)
    plan = Plan(
        config=config,
        optimizer={"type": optimizer_type, "params": optimizer_params},
        recipe=recipe,
        batch=batch,
        train_table=train_table,
        validation_table=validation_table,
        masks=resolve_masks(config, train_table),
        order=SampleOrder.of(train_table, config.corpus_weights, config.seed),
        model_config=model_config,
        resume_from=resume_from,
        init_folder=init_folder,
        moments_from=_find_moments(config, source) if init_folder is not None else None,
    )
    if plan.fp8 is not None:
        if has_autocast(plan.engine_config):
            raise ConfigurationError("fp8 and torch_autocast are both enabled; enable one of them")
        sizes = (model_config.hidden_size, model_config.intermediate_size)
        check_fp8(distributed.local_device(), plan.activation_dtype, sizes)
    if plan.resume_from is not None:
        check_resume(plan.facts, plan.resume_from)
    if plan.moments_from is not None:
        check_moments(plan.facts, plan.moments_from)
    _check_disk(plan)
    return plan


def _validation_table(config: TrainingConfig, train: TokenStore) -> InstanceTable | None:
    if not config.validation_data:
        return None
    table = _open(config, config.validation_data)
    store = table.store
    if store.vocabulary.sha256 != train.vocabulary.sha256:
        raise DataError(
            f"{config.validation_data} has another vocabulary than {config.train_data} "
            f"({store.vocabulary.sha256[:12]}, {train.vocabulary.sha256[:12]}); make both with one"
        )
    return table


def _open(config: TrainingConfig, name: str) -> InstanceTable:
    """Instances of a data set; of its copy on this host's own disk where one is wanted."""
    folder, length = Path(name), config.max_seq_length
    if config.local_data and config.dry_run:
        require_room(folder, length, config.local_data)
    elif config.local_data:
        how: dict[str, Any] = {"say": distributed.log, "moved": standing.moved}
        folder = local_copy(folder, length, config.local_data, **how)
    return TokenStore.open(folder).instances(length)


def _check_objective(config: TrainingConfig, table: InstanceTable) -> None:
    known = config.objective in OBJECTIVES
    require(known, "objective", config.objective, f"one of {', '.join(OBJECTIVES)}")
    found, expected = table.options.objective, OBJECTIVES[config.objective].instances
    if found != expected:
        folder = table.store.folder
        other = shlex.quote(f"{folder}_{expected.replace('+', '_')}")
        raise ConfigurationError(
            f"objective {config.objective} needs instances of {expected}, {folder} has those of "
            f"{found}; set objective to {found}, or make them of the same text: ds-bert preprocess "
            f"--objective {expected} --max_seq_length {config.max_seq_length} --output_dir {other}"
        )


def _model_config(config: TrainingConfig, store: TokenStore, init_folder: str | None) -> BertConfig:
    model_config = pretrained.read_model_config(
        config.model, store.vocabulary, config.max_seq_length
    )
    if not pretrained.is_random_weights(config.model):
        pretrained.check_vocabulary(config.model, store.vocabulary)
    if init_folder is not None:
        other = pretrained.read_model_config(init_folder, store.vocabulary, config.max_seq_length)
        pretrained.check_same_shape(model_config, other, init_folder)
        pretrained.check_vocabulary(init_folder, store.vocabulary)
    return model_config


def _find_start(config: TrainingConfig) -> tuple[TrainingConfig, Checkpoint | None]:
    """Where to start, and the configuration; a branch that decays ends so long after its start."""
    start = _find_checkpoint(config)
    if config.decay_from is None:
        return config, start
    first = start.facts.get(DECAY_START) if start is not None else None
    if start is None:
        start = open_checkpoint(config.decay_from)
        first = start.step
    if first is None:
        raise ConfigurationError(
            f"decay_from: found {start.folder}, which is no branch; choose another output_dir"
        )
    return replace(config, max_steps=first + config.num_decay_steps), start


def _find_checkpoint(config: TrainingConfig) -> Checkpoint | None:
    folder = Path(config.output_dir) / CHECKPOINTS
    if config.resume == "none":
        if existing := candidates(folder):
            raise ConfigurationError(
                f"resume is none, but {existing[0]} exists; choose another output_dir"
            )
        return None
    if config.resume != "auto":
        return open_checkpoint(config.resume)
    newest = newest_good(folder, set_aside=not config.dry_run)
    if newest is None and candidates(folder):
        raise CheckpointError(
            f"{folder}: every checkpoint is damaged, or its disk is not there for all ranks; look "
            "there first. To start from step 0, choose another output_dir"
        )
    if newest is None and any(folder.glob("branch_*")):
        raise CheckpointError(
            f"{folder}: all checkpoints are in branches; name one with --resume, or choose another "
            "output_dir"
        )
    return newest


def _find_moments(config: TrainingConfig, source: Checkpoint | None) -> Checkpoint | None:
    if not config.carry_moments:
        return None
    return source or open_checkpoint(str(config.init_from))


def _check_disk(plan: Plan) -> None:
    folder = Path(plan.config.output_dir)
    require_folder(folder / CHECKPOINTS, "output_dir")
    # One is written while the others stay; those that are there take no further room.
    there = len(list_checkpoints(folder / CHECKPOINTS))
    number = max(1, plan.config.keep_checkpoints + 1 - there)
    require_space(folder, plan.checkpoint_size.disk * number, f"{number} more checkpoints")
