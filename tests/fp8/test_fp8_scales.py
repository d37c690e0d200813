"""Stored scales: what they come from, and what must not get into them."""

import math

import pytest
import torch

from ds_bert.fp8.scales import HISTORY, MARGIN, Scales

CPU = torch.device("cpu")
LARGEST = torch.tensor([448.0, 57344.0])


def record(scales, *maxima):
    """A backward pass that finds these largest values of a product's input and gradient."""
    x, grad = maxima
    sum(place.x_probe * x + place.grad_probe * grad for place in scales.places()).backward()


def factors(scales):
    """Of the first product; None: its tensors' own."""
    place = scales.places()[0]
    return None if place.own else (float(place.x), float(place.grad))


def expected(*maxima):
    found = zip(maxima, LARGEST.tolist(), strict=True)
    return tuple(2.0 ** (math.ceil(math.log2(amax / largest)) + MARGIN) for amax, largest in found)


def test_the_first_step_takes_each_tensors_own():
    scales = Scales(2, CPU)
    assert factors(scales) is None
    record(scales, 3.0, 0.01)
    assert factors(scales) is None, "the step is not over"
    scales.finish_step()
    assert factors(scales) == expected(3.0, 0.01)


def test_scales_leave_room_and_lose_no_more_than_they_must():
    for amax in (1e-8, 0.9, 447.0, 448.0, 449.0, 3e4):
        scales = Scales(1, CPU)
        record(scales, amax, amax)
        scales.finish_step()
        room = LARGEST * torch.tensor(factors(scales)) / amax
        assert (room >= 2**MARGIN).all() and (room < 2 ** (MARGIN + 1)).all()


def test_the_largest_of_all_micro_batches_and_of_the_last_steps_counts():
    scales = Scales(1, CPU)
    for maxima in ((1.0, 4.0), (8.0, 2.0), (0.5, 0.5)):
        record(scales, *maxima)
    scales.finish_step()
    for _ in range(HISTORY - 1):
        record(scales, 1.0, 1.0)
        scales.finish_step()
    assert factors(scales) == expected(8.0, 4.0)
    record(scales, 1.0, 1.0)
    scales.finish_step()
    assert factors(scales) == expected(1.0, 1.0), "it is forgotten"


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_is_not_finite_leaves_no_trace(bad):
    scales = Scales(1, CPU)
    record(scales, 2.0, 2.0)
    scales.finish_step()
    record(scales, bad, 1.0)
    record(scales, 1.0, bad)
    scales.finish_step()
    assert factors(scales) == expected(2.0, 2.0)
    assert scales.state()["history"].isfinite().all()


def test_a_first_step_that_is_not_finite_is_followed_by_harmless_scales():
    scales = Scales(1, CPU)
    record(scales, math.nan, 0.0)
    scales.finish_step()
    assert factors(scales) == (1.0, 1.0)


def test_passes_without_gradients_record_nothing():
    scales = Scales(1, CPU)
    record(scales, 2.0, 2.0)
    before = scales.maxima.clone()
    with torch.no_grad():
        sum(place.x_probe for place in scales.places())
    leaf = torch.ones(2, requires_grad=True)
    torch.autograd.grad((scales.places()[0].x_probe * 9 + leaf).sum(), leaf)
    assert torch.equal(scales.maxima, before)


def test_what_other_ranks_found_counts():
    scales = Scales(1, CPU)
    record(scales, 2.0, 2.0)
    scales.finish_step(torch.tensor([[16.0, 2.0]]))
    assert factors(scales) == expected(16.0, 2.0)


def test_a_state_goes_on_bit_by_bit():
    one, other = Scales(3, CPU), Scales(3, CPU)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        one.finish_step(torch.rand(3, 2, generator=generator))
    other.load(one.state())
    for _ in range(3):
        assert torch.equal(one.fixed(), other.fixed())
        found = torch.rand(3, 2, generator=generator)
        one.finish_step(found)
        other.finish_step(found)


def test_with_a_state_of_other_products_it_begins_anew():
    scales, other = Scales(3, CPU), Scales(4, CPU)
    other.finish_step(torch.ones(4, 2))
    scales.load(other.state())
    assert factors(scales) is None


def test_current_scaling_never_stores_any():
    scales = Scales(1, CPU, is_delayed=False)
    for _ in range(2):
        record(scales, 2.0, 2.0)
        scales.finish_step()
        assert factors(scales) is None
        assert scales.fixed() is None
    again = Scales(1, CPU, is_delayed=False)
    again.load(scales.state())
    assert factors(again) is None


def test_fixed_scales_are_those_of_the_step():
    scales, again = Scales(2, CPU), Scales(2, CPU)
    scales.finish_step(torch.full((2, 2), 3.0))
    kept = scales.fixed()
    scales.finish_step(torch.full((2, 2), 300.0))
    again.fix(torch.tensor(kept.tolist()))
    assert factors(again) == expected(3.0, 3.0) != factors(scales)
