"""The DeepSpeed runs that are compared with the loop of `lamb_reference`, and what they return."""

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lamb_reference import (
    CLIP,
    GLOBAL_BATCH,
    LEARNING_RATE,
    STEPS,
    WEIGHT_DECAY,
    Batch,
    OrdinaryLamb,
    Weights,
    batches,
    build_model,
)
from torch import Tensor, nn

from ds_bert.optim.bf16_optimizer import waitless
from ds_bert.optim.optimizers import build_optimizer, parameter_groups
from ds_bert.optim.scatter import scatter_gradients
from ds_bert.optim.schedules import build_scheduler

State = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One training run: `options` go to the optimizer, `engine` to DeepSpeed's configuration.

    `waitless`: with ds_bert's class for bf16 weights and fp32 sums, not DeepSpeed's own;
    `scatters`: gradients over ranks by ds_bert's reduce-scatter, where the recipe allows it.
    """

    stage: int = 1
    accumulation: int = 1
    optimizer: str = "Lamb"
    schedule: str = "constant"
    options: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    waitless: bool = True
    scatters: bool = True


BF16 = {"bf16": {"enabled": True}}
FP32_ACCUMULATION = {"data_types": {"grad_accum_dtype": "fp32"}}
FP16 = {"fp16": {"enabled": True, "initial_scale_power": 10}}
ORDINARY = "one ratio per tensor it is given"

EXACT_RUNS = {
    "stage 0, 1 rank": (Case(stage=0), 1),
    "stage 1, 1 rank": (Case(), 1),
    "stage 1, 2 ranks": (Case(), 2),
    "stage 1, 4 ranks": (Case(), 4),
    "stage 1, 1 rank, accumulation 2": (Case(accumulation=2), 1),
    "stage 1, 1 rank, accumulation 4": (Case(accumulation=4), 1),
    "stage 1, 2 ranks, accumulation 2": (Case(accumulation=2), 2),
}
SIXTEEN_BIT_RUNS = {
    "bf16, 2 ranks": (Case(engine=BF16), 2),
    "bf16, accumulation 2 in fp32, 2 ranks": (
        Case(accumulation=2, engine={**BF16, **FP32_ACCUMULATION}),
        2,
    ),
    "fp16, 2 ranks": (Case(engine=FP16), 2),
}
ORDINARY_RUNS = {
    "ordinary LAMB, stage 0, 1 rank": (Case(stage=0, optimizer=ORDINARY), 1),
    "ordinary LAMB, stage 1, 1 rank": (Case(optimizer=ORDINARY), 1),
    "ordinary LAMB, stage 1, 2 ranks": (Case(optimizer=ORDINARY), 2),
    "ordinary LAMB, stage 1, 4 ranks": (Case(optimizer=ORDINARY), 4),
}


def weights_of(model: nn.Module) -> Weights:
    """fp32 copies of a model's parameters; under ZeRO the master weights (a collective)."""
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {}
    for name, parameter in model.named_parameters():
        master = safe_get_full_fp32_param(parameter) if hasattr(parameter, "_hp_mapping") else None
        weights[name] = (parameter.detach() if master is None else master).float().clone()
    return weights


def build_engine(case: Case, model: nn.Module, bind: bool = True) -> tuple[Any, Any]:
    """A DeepSpeed engine around `model` and its optimizer, on however many ranks there are."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    # Without fp16 instructions a CPU is slow in fp16, which is no reason not to test it.
    get_accelerator().is_fp16_supported = lambda: True
    optimizer = _build_optimizer(case, model)
    config = {
        "train_batch_size": GLOBAL_BATCH,
        "gradient_accumulation_steps": case.accumulation,
        "gradient_clipping": CLIP,
        "zero_optimization": {"stage": case.stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        **case.engine,
    }
    schedule = build_scheduler(
        optimizer, lr_scheduler_type=case.schedule, max_steps=STEPS, warmup_steps=0
    )
    ours = waitless() if case.waitless else contextlib.nullcontext()
    with ours, contextlib.redirect_stdout(io.StringIO()):  # BF16_Optimizer prints memory figures
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, lr_scheduler=schedule, config=config
        )
    if case.scatters:
        scatter_gradients(engine)
    if bind and case.optimizer == "Lamb":
        optimizer.bind()
    return engine, optimizer


def _build_optimizer(case: Case, model: nn.Module) -> torch.optim.Optimizer:
    if case.optimizer == ORDINARY:
        return OrdinaryLamb(parameter_groups(model, WEIGHT_DECAY), LEARNING_RATE)
    params = {"lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, **case.options}
    return build_optimizer(model, {"type": case.optimizer, "params": params})


def train(engine: Any, global_batches: Iterable[Batch]) -> None:
    """Take one optimizer step per global batch, each rank on its share.

    Losses are sums over global counts; DeepSpeed averages over `shares`, which is undone.
    """
    rank, share = dist.get_rank(), GLOBAL_BATCH // dist.get_world_size()
    micro = engine.train_micro_batch_size_per_gpu()
    shares = GLOBAL_BATCH // micro
    for batch in global_batches:
        num_masked = int((batch["labels"] != -100).sum())
        for start in range(rank * share, (rank + 1) * share, micro):
            piece = {name: values[start : start + micro] for name, values in batch.items()}
            masked_lm, next_sentence = loss_sums(engine, piece)
            engine.backward(shares * (masked_lm / num_masked + next_sentence / GLOBAL_BATCH))
            engine.step()


def loss_sums(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Summed cross-entropies of the masked tokens and of the sequences' next-sentence labels."""
    output = model(input_ids=batch["input_ids"])
    logits = output.prediction_logits.float().flatten(0, 1)
    pairs = output.seq_relationship_logits.float()
    return (
        F.cross_entropy(logits, batch["labels"].flatten(), reduction="sum"),
        F.cross_entropy(pairs, batch["next_sentence_label"], reduction="sum"),
    )


def run_case(case: Case) -> Weights:
    """Train `STEPS` steps under DeepSpeed from the reference's initial weights."""
    engine, _ = build_engine(case, build_model())
    train(engine, batches())
    return weights_of(engine.module)


def run_cases(cases: list[Case]) -> list[Weights]:
    """`run_case` for several cases, to be called on every rank."""
    return [run_case(case) for case in cases]


def first_gradient(case: Case) -> Weights:
    """The global gradient of the first step, unclipped, as ZeRO hands it to the optimizer."""
    from deepspeed.utils import safe_get_full_optimizer_state

    case = replace(case, engine={**case.engine, "gradient_clipping": 0.0})
    engine, _ = build_engine(case, build_model())
    train(engine, batches(1))
    return {  # the first moment after one step is (1 - beta1) times the gradient
        name: safe_get_full_optimizer_state(parameter, "exp_avg") / (1 - 0.9)
        for name, parameter in engine.module.named_parameters()
    }


def resume_case(case: Case, folder: str) -> tuple[Weights, Weights, State, State]:
    """Six steps, and three steps saved and continued for three in a new engine.

    Returns the weights of both and the optimizer's state of the last tensor it holds of both.
    """
    case = replace(case, schedule="linear")
    first, first_optimizer = build_engine(case, build_model())
    second, second_optimizer = build_engine(case, build_model(seed=1))
    history = list(batches(6))
    train(first, history[:3])
    first.save_checkpoint(folder, tag="three")
    second.load_checkpoint(folder, tag="three")
    for engine in (first, second):
        train(engine, history[3:])
    expected, found = (list(o.state.values())[-1] for o in (first_optimizer, second_optimizer))
    return weights_of(first.module), weights_of(second.module), dict(expected), dict(found)


def train_scalar() -> float:
    """One step on a single weight of 2: most ranks hold nothing but padding."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    case = Case(options={"weight_decay": 0.0}, engine={"train_batch_size": dist.get_world_size()})
    engine, _ = build_engine(case, model)
    engine.backward(engine(torch.ones(1, 1)).sum())
    engine.step()
    return float(model.weight)


def refusal_of_another_order() -> str | None:
    """What `bind` says to DeepSpeed's other order of the tensors."""
    case = Case(engine={"zero_optimization": {"stage": 1, "round_robin_gradients": True}})
    try:
        build_engine(case, build_model())
    except RuntimeError as error:
        return str(error)
    return None


def on_two_ranks(cases: list[Case], resumed: list[Case], folder: str) -> dict[str, Any]:
    """Everything the tests need of 2 ranks, in one start of the processes."""
    return {
        "weights": run_cases(cases),
        "gradient": first_gradient(Case(accumulation=2)),
        "refusal": refusal_of_another_order(),
        "resumed": [resume_case(case, f"{folder}/{i}") for i, case in enumerate(resumed)],
    }


def on_four_ranks() -> dict[str, Any]:
    """Everything the tests need of 4 ranks."""
    return {
        "weights": run_case(Case()),
        "gradient": first_gradient(Case()),
        "scalar": train_scalar(),
    }
