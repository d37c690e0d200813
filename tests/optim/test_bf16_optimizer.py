"""bf16 with fp32 sums: DeepSpeed's own steps, to the bit, without its questions to the host."""

from dataclasses import replace

import lamb_cases
import pytest
import torch
from distributed_util import join_group
from lamb_cases import BF16, Case
from lamb_reference import CLIP, batches, build_model
from operations import Operations

from ds_bert.optim.bf16_optimizer import WaitlessBF16Optimizer, global_norm, skipped, take_back

OPTIMIZERS = ("Lamb", "AdamW")


@pytest.fixture(scope="module", autouse=True)
def _group():
    join_group()


def case(optimizer="Lamb", clip=1e6, immediate=True, schedule="constant", own=True):
    engine = {
        "bf16": BF16["bf16"] | {"immediate_grad_update": immediate},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "gradient_clipping": clip,
    }
    return Case(accumulation=2, optimizer=optimizer, schedule=schedule, engine=engine, waitless=own)


def trained(own, steps=4, **options):
    """The engine and its optimizer after some steps with our class, or with DeepSpeed's."""
    engine, optimizer = lamb_cases.build_engine(case(own=own, **options), build_model())
    assert isinstance(engine.optimizer, WaitlessBF16Optimizer) == own
    lamb_cases.train(engine, batches(steps))
    return engine, optimizer


def state(engine, optimizer):
    """Weights, moments and counts, by name."""
    found = {f"weights {n}": w for n, w in lamb_cases.weights_of(engine.module).items()}
    for number, values in enumerate(optimizer.state.values()):
        found |= {f"{n} {number}": torch.as_tensor(v).clone() for n, v in values.items()}
    return found


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("immediate", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_as_deepspeed_without_clipping(optimizer, immediate):
    """Also with gradients added up at once, where DeepSpeed's default is afterwards."""
    expected = state(*trained(False, optimizer=optimizer, immediate=False))
    found = state(*trained(True, optimizer=optimizer, immediate=immediate))
    assert_same_bits(found, expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_clipped_as_deepspeed_does_up_to_rounding(optimizer):
    """One step: afterwards bf16 weights that round to the other side make more of it."""
    free = state(*trained(True, steps=1, optimizer=optimizer))
    expected = state(*trained(False, steps=1, optimizer=optimizer, clip=CLIP))
    engine, own = trained(True, steps=1, optimizer=optimizer, clip=CLIP)
    for name, found in state(engine, own).items():
        assert (found - expected[name]).norm() <= 1e-5 * expected[name].norm(), name
    assert float(engine.get_global_grad_norm()) > CLIP, "nothing was clipped"
    moments = "exp_avg 0"
    assert (free[moments] - expected[moments]).norm() > 0.1 * free[moments].norm()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_skipped_step_leaves_no_trace(optimizer):
    history = list(batches(4))
    whole, whole_optimizer = trained(True, steps=0, optimizer=optimizer, schedule="linear")
    lamb_cases.train(whole, history)
    engine, own = trained(True, steps=0, optimizer=optimizer, schedule="linear")
    lamb_cases.train(engine, history[:2])
    before, rate = state(engine, own), engine.get_lr()
    engine.module.register_forward_hook(poison := Poison())
    lamb_cases.train(engine, history[3:])
    assert engine.skipped_steps == 0, "the host does not know yet"
    assert bool(skipped(engine))
    assert engine.get_global_grad_norm() == torch.inf
    take_back(engine)
    assert engine.skipped_steps == 1 and engine.get_lr() == rate
    assert_same_bits(state(engine, own), before)
    poison.active = False
    lamb_cases.train(engine, history[2:])
    assert not bool(skipped(engine))
    assert_same_bits(state(engine, own), state(whole, whole_optimizer))


class Poison:
    """A forward hook that makes every loss infinite."""

    active = True

    def __call__(self, module, inputs, output):
        if self.active:
            output.prediction_logits = output.prediction_logits * torch.inf
            return output
        return None


def test_an_optimizer_without_the_protocol_steps_as_before():
    found, own = trained(True, steps=2, optimizer=lamb_cases.ORDINARY)
    expected, other = trained(False, steps=2, optimizer=lamb_cases.ORDINARY)
    assert skipped(found) is False
    assert_same_bits(state(found, own), state(expected, other))


@pytest.mark.parametrize("sizes", [(3,), (70_000, 5), (1 << 16,), (1 << 22, 1)])
def test_global_norm(sizes):
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(size, generator=generator) for size in sizes]
    expected = torch.cat(parts).double().norm()
    assert float(global_norm(parts)) == pytest.approx(float(expected), rel=1e-6)
    parts[-1][-1] = torch.nan
    assert global_norm(parts).isnan()


def test_work_outside_the_optimizer_does_not_grow_with_the_number_of_tensors(monkeypatch):
    """DeepSpeed's own loops over tensors, three times."""
    counts = []
    for layers in (1, 3):
        engine, optimizer = lamb_cases.build_engine(case(), build_model(layers=layers))
        monkeypatch.setattr(engine.optimizer, "clear_hp_grads", lambda: None)
        lamb_cases.train(engine, batches(1))
        monkeypatch.setattr(optimizer, "step", lambda: None)
        with Operations() as operations:
            engine.optimizer.step()
        counts.append(operations.total)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("scatters", [True, False])
def test_tensors_without_a_gradient_keep_nothing_of_the_step_before(scatters):
    """The first gradient of a step replaces the old sum; what gets none is zeroed."""
    states = []
    for own in (True, False):
        run = replace(case("AdamW", own=own), scatters=own and scatters)
        engine, optimizer = lamb_cases.build_engine(run, build_model())
        lamb_cases.train(engine, batches(1))
        engine.module.register_forward_hook(_without_next_sentences)
        lamb_cases.train(engine, batches(2))
        states.append(state(engine, optimizer))
    assert_same_bits(*states)


def _without_next_sentences(module, inputs, output):
    output.seq_relationship_logits = output.seq_relationship_logits.detach()
    return output
