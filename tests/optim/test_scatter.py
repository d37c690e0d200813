"""Gradients by reduce-scatter: the same steps as by DeepSpeed's all-reduce, on several ranks."""

from dataclasses import replace

import lamb_cases
import pytest
import torch
from distributed_util import join_group, run_ranks
from lamb_cases import BF16, FP16, FP32_ACCUMULATION, Case
from lamb_reference import batches, build_model

from ds_bert.optim.bf16_optimizer import skipped

SUMS = {**BF16, **FP32_ACCUMULATION, "communication_data_type": "fp32"}
UNCLIPPED = {"gradient_clipping": 1e6}  # clipping takes a norm that is added up in another order


def zero(**options):
    return {"zero_optimization": {"stage": 1, **options}}


CASES = {
    "bf16, fp32 sums, Lamb": Case(accumulation=2, engine={**SUMS, **UNCLIPPED}),
    "bf16, fp32 sums, AdamW": Case(optimizer="AdamW", engine={**SUMS, **UNCLIPPED}),
    "bf16 on the wire": Case(
        accumulation=2, engine={**SUMS, **UNCLIPPED, "communication_data_type": "bf16"}
    ),
    "fp16, AdamW": Case(optimizer="AdamW", engine=FP16),
    "fp16, fp32 sums": Case(accumulation=2, engine={**FP16, **FP32_ACCUMULATION}),
    "fp32, Lamb": Case(),
    "small buckets": Case(engine=zero(reduce_bucket_size=20_000)),
}
OTHERS = {
    "overlap_comm": Case(engine=zero(overlap_comm=True)),
    "reduce_scatter false": Case(engine=zero(reduce_scatter=False)),
    "the same in bf16": Case(engine={**SUMS, **zero(reduce_scatter=False)}),
    "divided before": Case(engine={**SUMS, "prescale_gradients": True}),
    "divided in part": Case(engine={**SUMS, "gradient_predivide_factor": 2.0}),
    "another optimizer": Case(engine=SUMS, optimizer=lamb_cases.ORDINARY),
    "stage 0": Case(stage=0),
}


def state_after(case, steps=2):
    engine, optimizer = lamb_cases.build_engine(case, build_model())
    lamb_cases.train(engine, batches(steps))
    moments = [values["exp_avg"] for values in optimizer.state.values()]
    return lamb_cases.weights_of(engine.module), moments


def infinite_on_rank_1():
    """Whether a step was skipped where one rank's gradients alone are infinite."""
    engine, _ = lamb_cases.build_engine(CASES["bf16, fp32 sums, Lamb"], build_model())
    if torch.distributed.get_rank() == 1:
        engine.module.register_forward_hook(_poison)
    lamb_cases.train(engine, batches(1))
    return bool(skipped(engine)), float(engine.get_global_grad_norm())


def _poison(module, inputs, output):
    output.prediction_logits = output.prediction_logits * torch.inf
    return output


def on_two_ranks(cases):
    states = [(state_after(case), state_after(replace(case, scatters=False))) for case in cases]
    return states, infinite_on_rank_1()


@pytest.fixture(scope="module")
def two_ranks():
    return run_ranks(on_two_ranks, 2, list(CASES.values()))


@pytest.mark.parametrize("name", CASES)
def test_steps_as_with_deepspeeds_all_reduce(name, two_ranks):
    """To the bit: a sum of two is the same in either order."""
    for states, _ in two_ranks:
        (weights, moments), (expected, expected_moments) = states[list(CASES).index(name)]
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
        assert all(map(torch.equal, moments, expected_moments))
        assert any(moment.any() for moment in moments)


def test_all_ranks_skip_what_one_cannot_add_up(two_ranks):
    assert [answer for _, answer in two_ranks] == [(True, torch.inf)] * 2


@pytest.mark.parametrize("name", [*CASES, *OTHERS])
def test_where_the_recipe_asks_for_another_way_it_is_taken(name):
    join_group()
    engine, _ = lamb_cases.build_engine({**CASES, **OTHERS}[name], build_model())
    own = {"reduce_gradients", "allreduce_and_scatter"} & set(vars(engine.optimizer))
    assert len(own) == (name in CASES)
