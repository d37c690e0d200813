"""The moving average of the weights: that of a loop by hand, without steps that were skipped."""

import lamb_cases
import pytest
import torch
from distributed_util import join_group, run_ranks
from lamb_cases import BF16, FP16, FP32_ACCUMULATION, Case, weights_of
from lamb_reference import batches, build_model

from ds_bert.optim.average import AVERAGE, forget_average, keep_average
from ds_bert.optim.bf16_optimizer import skipped, take_back

DECAY, STEPS = 0.75, 4
IN_FP32_SUMS = {**BF16, **FP32_ACCUMULATION, "communication_data_type": "fp32"}
CASES = {
    "stage 0": Case(stage=0, optimizer="AdamW"),
    "stage 1": Case(accumulation=2),
    "bf16": Case(engine=BF16, optimizer="AdamW"),
    "bf16, sums in fp32": Case(engine=IN_FP32_SUMS),
    "fp16": Case(engine=FP16),
}
OF_TWO_RANKS = ("stage 0", "stage 1", "bf16, sums in fp32")


def averages_of(engine, optimizer):
    """By the names of the parameters, from all ranks."""
    from deepspeed.utils import safe_get_full_optimizer_state

    parameters = dict(engine.module.named_parameters())
    if not engine.zero_optimization():
        return {name: optimizer.state[tensor][AVERAGE] for name, tensor in parameters.items()}
    engine.optimizer._hp_optimizer_states_linked = False  # DeepSpeed looks at the state once
    engine.optimizer._lazy_init_hp_params_optimizer_state()
    return {n: safe_get_full_optimizer_state(t, AVERAGE) for n, t in parameters.items()}


def run(name):
    """Averages after some steps, the same by hand, and how much this rank keeps of them."""
    engine, optimizer = lamb_cases.build_engine(CASES[name], build_model())
    keep_average(optimizer, DECAY)
    expected = None
    for batch in batches(STEPS):
        lamb_cases.train(engine, [batch])
        weights = weights_of(engine.module)
        expected = expected or weights
        expected = {n: DECAY * expected[n] + (1 - DECAY) * weights[n] for n in weights}
    kept = sum(state[AVERAGE].numel() for state in optimizer.state.values())
    return averages_of(engine, optimizer), expected, weights, kept


def require_alike(found, expected, weights, _):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].view_as(value), value, rtol=1e-6, atol=1e-7)
    assert any(not torch.allclose(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("name", CASES)
def test_as_a_loop_by_hand(name):
    join_group()
    require_alike(*run(name))


def run_all(names):
    return [run(name) for name in names]


def test_each_rank_keeps_its_own_slice():
    ranks = run_ranks(run_all, 2, OF_TWO_RANKS)
    size = sum(parameter.numel() for parameter in build_model().parameters())
    for name, *of_ranks in zip(OF_TWO_RANKS, *ranks, strict=True):
        for of_rank in of_ranks:
            require_alike(*of_rank)
            share = size if name == "stage 0" else size / 2
            assert of_rank[3] == pytest.approx(share, abs=4)


@pytest.mark.parametrize("name", ["bf16, sums in fp32", "fp16"])
def test_a_skipped_step_leaves_it_as_it_is(name):
    join_group()
    engine, optimizer = lamb_cases.build_engine(CASES[name], build_model())
    keep_average(optimizer, DECAY)
    history = list(batches(3))
    lamb_cases.train(engine, history[:2])
    before = averages_of(engine, optimizer)
    handle = engine.module.register_forward_hook(_infinite)
    lamb_cases.train(engine, history[2:])
    handle.remove()
    if bool(skipped(engine)):
        take_back(engine)
    assert engine.skipped_steps == 1
    after = averages_of(engine, optimizer)
    assert all(torch.equal(after[name], before[name]) for name in before)
    lamb_cases.train(engine, history[2:])
    after = averages_of(engine, optimizer)
    assert not all(torch.equal(after[name], before[name]) for name in before)


def _infinite(module, inputs, output):
    output.prediction_logits = output.prediction_logits * torch.inf
    return output


def test_forgotten_it_begins_anew():
    tensor = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([tensor], lr=1.0, momentum=0.9)
    keep_average(optimizer, DECAY)
    for _ in range(2):
        tensor.grad = torch.ones(3)
        optimizer.step()
    assert torch.equal(optimizer.state[tensor][AVERAGE], torch.full((3,), -1 - 1.9 / 4))
    forget_average(optimizer)
    assert AVERAGE not in optimizer.state[tensor]
    optimizer.step()
    assert torch.equal(optimizer.state[tensor][AVERAGE], tensor)
