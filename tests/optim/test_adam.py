"""Adam with each of its options against a loop over tensors: plain, and as ZeRO partitions."""

import math

import lamb_cases
import lamb_reference
import pytest
import torch
from distributed_util import join_group, run_ranks
from lamb_cases import Case
from lamb_reference import CLIP, LEARNING_RATE, WEIGHT_DECAY
from torch import nn

from ds_bert.optim.adam import UncorrectedAdam
from ds_bert.optim.optimizers import build_optimizer

EXACT = 1e-5  # of the total update, for fp32
BETAS, EPS = (0.9, 0.98), 1e-6
# Name: type, its options; the loop's is_decoupled, bias_correction.
VARIANTS = {
    "AdamW": ("AdamW", {}, True, True),
    "AdamW, uncorrected": ("AdamW", {"bias_correction": False}, True, False),
    "Adam": ("Adam", {}, True, True),
    "Adam, L2": ("Adam", {"adam_w_mode": False}, False, True),
    "L2, uncorrected": ("Adam", {"adam_w_mode": False, "bias_correction": False}, False, False),
}


class Loop:
    """Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019) in fp64, tensor by tensor.

    Source of the form without correction: google-research/bert, optimization.py.
    """

    def __init__(self, is_decoupled: bool, bias_correction: bool, lr: float, decay: float):
        self.is_decoupled, self.bias_correction = is_decoupled, bias_correction
        self.lr, self.decay, self.step, self.moments = lr, decay, 0, {}

    def update(self, tensors: dict, gradients: dict) -> dict:
        self.step += 1
        result = {}
        for name, x in tensors.items():
            x, g = x.double(), gradients[name].double()
            decay = 0.0 if "LayerNorm" in name or name.endswith("bias") else self.decay
            if not self.is_decoupled:
                g = g + decay * x
            m, v = self.moments.get(name, (0.0, 0.0))
            m = BETAS[0] * m + (1 - BETAS[0]) * g
            v = BETAS[1] * v + (1 - BETAS[1]) * g**2
            self.moments[name] = m, v
            if self.bias_correction:
                m, v = m / (1 - BETAS[0] ** self.step), v / (1 - BETAS[1] ** self.step)
            u = m / (v.sqrt() + EPS)
            result[name] = x - self.lr * (u + (decay * x if self.is_decoupled else 0.0))
        return result


@pytest.mark.parametrize("name", VARIANTS)
def test_step_by_step(name):
    kind, options, *form = VARIANTS[name]
    torch.manual_seed(0)
    model = nn.Linear(7, 5)
    params = {"lr": 0.1, "betas": BETAS, "eps": EPS, "weight_decay": 0.3, **options}
    optimizer = build_optimizer(model, {"type": kind, "params": params})
    loop = Loop(*form, lr=0.1, decay=0.3)
    expected = {name: p.detach().clone().double() for name, p in model.named_parameters()}
    for _ in range(12):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        expected = loop.update(expected, {n: p.grad for n, p in model.named_parameters()})
        optimizer.step()
        for key, parameter in model.named_parameters():
            assert torch.allclose(parameter.double(), expected[key], rtol=0, atol=3e-6)


def reference(is_decoupled, bias_correction):
    """Weights before and after the steps of `lamb_cases`, by the loop."""
    model = lamb_reference.build_model()
    loop = Loop(is_decoupled, bias_correction, LEARNING_RATE, WEIGHT_DECAY)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for batch in lamb_reference.batches():
        model.zero_grad()
        model(**batch).loss.backward()
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
        scale = min(1.0, CLIP / (norm + 1e-6))
        tensors = dict(model.named_parameters())
        after = loop.update(tensors, {n: p.grad * scale for n, p in tensors.items()})
        with torch.no_grad():
            for key, parameter in tensors.items():
                parameter.copy_(after[key])
    return before, {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def two_ranks():
    given = {"betas": BETAS, "eps": EPS}
    cases = [Case(optimizer=kind, options={**given, **own}) for kind, own, *_ in VARIANTS.values()]
    sums = {**lamb_cases.BF16, **lamb_cases.FP32_ACCUMULATION}
    options = {**given, "bias_correction": False}
    cases.append(Case(optimizer="AdamW", accumulation=2, engine=sums, options=options))
    found, other = run_ranks(lamb_cases.run_cases, 2, cases)
    assert all(
        torch.equal(a[name], b[name]) for a, b in zip(found, other, strict=True) for name in a
    )
    return dict(zip([*VARIANTS, "bf16"], found, strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_exact_on_two_ranks(name, two_ranks):
    *_, is_decoupled, bias_correction = VARIANTS[name]
    exact = reference(is_decoupled, bias_correction)
    assert lamb_reference.error(two_ranks[name], exact)[0] < EXACT
    for other in ((not is_decoupled, bias_correction), (is_decoupled, not bias_correction)):
        assert lamb_reference.error(two_ranks[name], reference(*other))[0] > 1e-3, "does nothing"


def test_waitless_bf16_stays_close(two_ranks):
    exact = reference(is_decoupled=True, bias_correction=False)
    assert lamb_reference.error(two_ranks["bf16"], exact)[0] < 0.06


def test_resumed_it_goes_on_as_before(tmp_path):
    case = Case(optimizer="AdamW", options={"bias_correction": False})
    expected, found, expected_state, found_state = lamb_cases.resume_case(case, str(tmp_path))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert found_state["step"] == expected_state["step"] == 6
    assert torch.equal(found_state["exp_avg_sq"], expected_state["exp_avg_sq"])


def test_loss_scaling_as_torch_has_it():
    """`grad_scale` divides gradients; a step with `found_inf` changes and counts nothing."""
    start, gradient = torch.arange(1.0, 6.0), torch.linspace(-1, 1, 5)
    ends = []
    for scale in (None, torch.tensor(4.0)):
        tensor = start.clone().requires_grad_()
        options = {"lr": 0.1, "betas": BETAS, "eps": EPS, "weight_decay": 0.1}
        optimizer = UncorrectedAdam([{"params": [tensor]}], is_decoupled=True, **options)
        optimizer.grad_scale, optimizer.found_inf = scale, torch.tensor(0.0)
        tensor.grad = gradient * (1 if scale is None else scale)
        optimizer.step()
        ends.append(tensor.detach().clone())
        optimizer.found_inf = torch.tensor(1.0)
        tensor.grad = torch.full_like(start, math.inf)
        optimizer.step()
        assert torch.equal(tensor, ends[-1])
        assert optimizer.state[tensor]["step"] == 1
    assert torch.allclose(*ends) and not torch.equal(ends[0], start)


@pytest.fixture(scope="module", autouse=True)
def _group():
    join_group()
