"""Gradients by reduce-scatter: the same steps as by DeepSpeed's all-reduce, on several ranks."""

from dataclasses import replace
from unittest import mock

import lamb_cases
import pytest
import torch
from distributed_util import join_group, run_ranks
from lamb_cases import BF16, FP16, FP32_ACCUMULATION, Case
from lamb_reference import batches, build_model

from ds_bert.optim import overlap
from ds_bert.optim.bf16_optimizer import skipped
from ds_bert.optim.overlap import EarlyReduceScatter

SUMS = {**BF16, **FP32_ACCUMULATION, "communication_data_type": "fp32"}
UNCLIPPED = {"gradient_clipping": 1e6}  # clipping takes a norm that is added up in another order


def zero(**options):
    return {"zero_optimization": {"stage": 1, **options}}


BUCKETS = {"reduce_bucket_size": 3001}  # many, which do not divide by the ranks

CASES = {
    "bf16, fp32 sums, Lamb": Case(accumulation=2, engine={**SUMS, **UNCLIPPED}),
    "bf16, fp32 sums, AdamW": Case(optimizer="AdamW", engine={**SUMS, **UNCLIPPED}),
    "bf16 on the wire": Case(
        accumulation=2, engine={**SUMS, **UNCLIPPED, "communication_data_type": "bf16"}
    ),
    "during the backward pass": Case(
        accumulation=2, engine={**SUMS, **UNCLIPPED, **zero(overlap_comm=True, **BUCKETS)}
    ),
    "the same, AdamW, bf16 on the wire": Case(
        optimizer="AdamW",
        engine={
            **SUMS,
            **UNCLIPPED,
            **zero(overlap_comm=True, **BUCKETS),
            "communication_data_type": "bf16",
        },
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


def sent_during_backward():
    """Of each step, buckets that were on their way before its last backward pass had ended."""
    found, finish = [], EarlyReduceScatter.finish

    def counting(self, partition):
        found.append((len(self._sent), len(self._buckets)))
        finish(self, partition)

    with mock.patch.object(EarlyReduceScatter, "finish", counting):
        state_after(CASES["during the backward pass"])
    return found


def on_two_ranks(cases):
    states = [(state_after(case), state_after(replace(case, scatters=False))) for case in cases]
    return states, infinite_on_rank_1(), sent_during_backward()


@pytest.fixture(scope="module")
def two_ranks():
    return run_ranks(on_two_ranks, 2, list(CASES.values()))


@pytest.mark.parametrize("name", CASES)
def test_steps_as_with_deepspeeds_all_reduce(name, two_ranks):
    """To the bit: a sum of two is the same in either order."""
    for states, *_ in two_ranks:
        (weights, moments), (expected, expected_moments) = states[list(CASES).index(name)]
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
        assert all(map(torch.equal, moments, expected_moments))
        assert any(moment.any() for moment in moments)


def test_all_ranks_skip_what_one_cannot_add_up(two_ranks):
    assert [answer for _, answer, _ in two_ranks] == [(True, torch.inf)] * 2


def test_gradients_are_sent_while_the_last_backward_pass_of_a_step_runs(two_ranks):
    for *_, sent in two_ranks:
        assert len(sent) == 2  # steps; of two micro-batches each
        assert all(buckets > 10 and early >= buckets - 2 for early, buckets in sent)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("bucket_size", [1, 7, 32, 10**9])
def test_shares_of_all_ranks_are_each_part_once_and_in_order(ranks, bucket_size, monkeypatch):
    monkeypatch.setattr(overlap.dist, "get_world_size", lambda group: ranks)
    monkeypatch.setattr(overlap.dist, "get_rank", lambda group: 0)
    flat = torch.zeros(2 * 30)
    early = EarlyReduceScatter(flat, [50, 3, 1], bucket_size, torch.float32, None)
    for owner in range(ranks):
        spans = [early._between(rank, owner) for rank in range(ranks)]
        assert all(part == sorted(part) for part in spans)
        elements = [element for part in spans for span in part for element in range(*span)]
        part = len(flat) // ranks
        assert sorted(elements) == list(range(owner * part, (owner + 1) * part))


@pytest.mark.parametrize("name", [*CASES, *OTHERS])
def test_where_the_recipe_asks_for_another_way_it_is_taken(name):
    join_group()
    engine, _ = lamb_cases.build_engine({**CASES, **OTHERS}[name], build_model())
    own = {"reduce_gradients", "allreduce_and_scatter"} & set(vars(engine.optimizer))
    assert len(own) == (name in CASES)
