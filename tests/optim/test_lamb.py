"""LAMB against an independent loop over tensors: plain, under every ZeRO wrapper, and resumed."""

import math

import lamb_cases
import lamb_reference
import pytest
import torch
from distributed_util import join_group, run_ranks
from lamb_cases import Case
from lamb_reference import CLIP, LEARNING_RATE, STEPS

EXACT = 1e-5  # of the total update, for fp32
# 16-bit weights and gradients round; an ordinary LAMB is off by about 1.
CLOSE = {"bf16": 0.06, "fp16": 0.02}

UNCLIPPED = {"gradient_clipping": 0.0}
OPTIONS = {
    "no bias correction": Case(options={"bias_correction": False}),
    "clamped": Case(options={"min_trust_ratio": 0.08, "max_trust_ratio": 0.3}),
    "bing_bert": Case(
        options={"bias_correction": False, "min_trust_ratio": 0.01, "max_trust_ratio": 0.3}
    ),
    "no ratio without decay": Case(options={"adapt_without_decay": False}),
    "pre-normalized": Case(options={"pre_normalize_gradients": True}, engine=UNCLIPPED),
}
ADAMW = Case(optimizer="AdamW")
RESUMED = {
    "fp32": Case(),
    "fp16": Case(engine=lamb_cases.FP16),
    "bf16": Case(engine=lamb_cases.BF16),
    "bf16, fp32 accumulation": Case(engine={**lamb_cases.BF16, **lamb_cases.FP32_ACCUMULATION}),
    "AdamW": ADAMW,
}


def runs_on(ranks, runs):
    return {name: case for name, (case, number) in runs.items() if number == ranks}


@pytest.fixture(scope="module", autouse=True)
def _group():
    join_group()


@pytest.fixture(scope="module")
def reference():
    return lamb_reference.train_reference()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    exact = runs_on(2, lamb_cases.EXACT_RUNS)
    cases = {**exact, **OPTIONS, **runs_on(2, lamb_cases.SIXTEEN_BIT_RUNS), "AdamW": ADAMW}
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    arguments = list(cases.values()), list(RESUMED.values()), folder
    first, second = run_ranks(lamb_cases.on_two_ranks, 2, *arguments)
    for mine, other in zip(first["weights"], second["weights"], strict=True):
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    first["weights"] = dict(zip(cases, first["weights"], strict=True))
    first["resumed"] = dict(
        zip(RESUMED, zip(first["resumed"], second["resumed"], strict=True), strict=True)
    )
    first["refusals"] = [first["refusal"], second["refusal"]]
    return first


@pytest.fixture(scope="module")
def four_ranks():
    return run_ranks(lamb_cases.on_four_ranks, 4)


def assert_exact(weights, reference):
    relative, _ = lamb_reference.error(weights, reference)
    assert relative < EXACT


@pytest.mark.parametrize("name", runs_on(1, lamb_cases.EXACT_RUNS))
def test_exact_on_one_rank(name, reference):
    assert_exact(lamb_cases.run_case(lamb_cases.EXACT_RUNS[name][0]), reference)


@pytest.mark.parametrize("name", runs_on(2, lamb_cases.EXACT_RUNS))
def test_exact_on_two_ranks(name, two_ranks, reference):
    assert_exact(two_ranks["weights"][name], reference)


def test_exact_on_four_ranks(four_ranks, reference):
    assert_exact(four_ranks[0]["weights"], reference)


def test_ordinary_lamb_is_right_over_tensors_and_wrong_over_a_partition(reference):
    whole, flat = lamb_cases.ORDINARY_RUNS, "ordinary LAMB, stage 1, 1 rank"
    assert_exact(lamb_cases.run_case(whole["ordinary LAMB, stage 0, 1 rank"][0]), reference)
    assert lamb_reference.error(lamb_cases.run_case(whole[flat][0]), reference)[0] > 0.5


def test_same_gradient_for_any_split_of_the_batch(two_ranks, four_ranks):
    """1 x 4, 2 x 2 and 4 x 1 (ranks x accumulation), each sequence with another mask count."""
    model = lamb_reference.build_model()
    (batch,) = lamb_reference.batches(1)
    model(**batch).loss.backward()
    split = [
        lamb_cases.first_gradient(Case(accumulation=4)),
        two_ranks["gradient"],
        four_ranks[0]["gradient"],
    ]
    for gradient in split:
        for name, parameter in model.named_parameters():
            assert torch.allclose(gradient[name], parameter.grad, rtol=1e-4, atol=1e-7), name


def test_ranks_that_hold_only_padding_join_in(four_ranks):
    # The first bias-corrected update is the gradient's sign; its ratio is 2 / 1.
    expected = 2 - LEARNING_RATE * 2
    assert [rank["scalar"] for rank in four_ranks] == pytest.approx([expected] * 4, rel=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_on_two_ranks(name, two_ranks):
    clip = math.inf if OPTIONS[name].engine else CLIP
    found, options = two_ranks["weights"][name], OPTIONS[name].options
    assert_exact(found, lamb_reference.train_reference(clip=clip, **options))
    without = lamb_reference.train_reference(clip=clip)
    assert lamb_reference.error(found, without)[0] > 1e-3, "the option did nothing"


def test_adamw_on_two_ranks(two_ranks):
    adamw = lamb_reference.train_reference(min_trust_ratio=1.0, max_trust_ratio=1.0)
    assert_exact(two_ranks["weights"]["AdamW"], adamw)


@pytest.mark.parametrize("name", runs_on(2, lamb_cases.SIXTEEN_BIT_RUNS))
def test_sixteen_bit_stays_close(name, two_ranks, reference):
    relative, _ = lamb_reference.error(two_ranks["weights"][name], reference)
    assert relative < CLOSE[name[:4]]


def test_fp16_skips_overflowing_steps():
    fp16 = {"enabled": True, "initial_scale_power": 18, "hysteresis": 1}
    engine, optimizer = lamb_cases.build_engine(
        Case(engine={"fp16": fp16}), lamb_reference.build_model()
    )
    lamb_cases.train(engine, lamb_reference.batches())
    (state,) = optimizer.state.values()
    assert 0 < engine.skipped_steps < STEPS
    assert state["step"] == engine.lr_scheduler.last_epoch == STEPS - engine.skipped_steps
    assert all(w.isfinite().all() for w in lamb_cases.weights_of(engine.module).values())


def assert_resumed(result, keys=("exp_avg", "exp_avg_sq", "step")):
    expected, found, expected_state, found_state = result
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert sorted(found_state) == list(keys)
    assert found_state["step"] == 6 and found_state["step"].dtype == torch.float32
    assert all(torch.equal(expected_state[key], found_state[key]) for key in keys)


@pytest.mark.parametrize("name", RESUMED)
def test_resume_is_bit_identical_on_two_ranks(name, two_ranks):
    for rank in two_ranks["resumed"][name]:
        assert_resumed(rank)


def test_resume_is_bit_identical_at_stage_0(tmp_path):
    assert_resumed(lamb_cases.resume_case(Case(stage=0), str(tmp_path)))


@pytest.mark.parametrize("stage", [0, 1])
def test_moments_carried_into_another_schedule(stage, tmp_path):
    case = Case(stage=stage, schedule="linear")
    first, _ = lamb_cases.build_engine(case, lamb_reference.build_model())
    lamb_cases.train(first, lamb_reference.batches(5))
    first.save_checkpoint(str(tmp_path), tag="five")
    second, optimizer = lamb_cases.build_engine(case, lamb_reference.build_model())
    second.load_checkpoint(str(tmp_path), tag="five", load_lr_scheduler_states=False)
    assert optimizer.param_groups[0]["lr"] == LEARNING_RATE  # not the half of it that was saved
    assert {float(state["step"]) for state in optimizer.state.values()} == {5}


def test_bind_refuses_another_order_of_deepspeed(two_ranks):
    for message in two_ranks["refusals"]:
        assert message is not None and "not laid out as expected" in message


@pytest.mark.parametrize("stage", [0, 1])
def test_bind_allocates_the_state(stage):
    _, optimizer = lamb_cases.build_engine(Case(stage=stage), lamb_reference.build_model())
    assert all("exp_avg" in optimizer.state[t] for t in optimizer.param_groups[0]["params"])


def test_reference_depends_on_clipping_and_learning_rate():
    """The comparison would be empty if gradients were never clipped or steps were tiny."""
    before, after = lamb_reference.train_reference(clip=math.inf)
    assert lamb_reference.error(after, lamb_reference.train_reference(clip=CLIP))[0] > 1e-3
    update = after["bert.pooler.dense.weight"] - before["bert.pooler.dense.weight"]
    assert update.norm() > LEARNING_RATE
