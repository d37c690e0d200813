"""The Triton LAMB in the interpreter, or on a GPU, against its plain-torch twin."""

import pytest
import torch
from ds_bert_kernels import lamb
from ds_bert_kernels.reference import lamb as reference
from ds_bert_kernels.reference.lamb import Segment
from gpu_marks import NEEDS_GPU

CASES = {
    "small tensors and padding": ([7, 1, 40, 13], 0, 3),
    "borders inside blocks": ([5000, 4096, 9000, 1, 12288, 100], 0, 0),
    "whole blocks": ([3 * lamb.BLOCK], 0, 0),
    "tensors cut by the partition": ([9000, 20], 5000, 0),
    "only padding": ([], 0, 5),
}
DECAYS = [(0.01, True), (0.0, False), (0.1, True)]


def make_segments(sizes, offset):
    """Segments of consecutive tensors, the first of which lacks its first `offset` elements."""
    segments, position = [], 0
    for index, size in enumerate(sizes):
        length = size - offset if index == 0 else size
        segments.append(Segment(position, length, index, *DECAYS[index % len(DECAYS)]))
        position += length
    return segments, position


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.float32),
        ("cpu", torch.float16),
        pytest.param("cuda", torch.float32, marks=NEEDS_GPU),
        pytest.param("cuda", torch.bfloat16, marks=NEEDS_GPU),
    ],
)
@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "_"))
def test_equal_to_its_twin(case, scale, device, dtype):
    sizes, offset, padding = CASES[case]
    segments, size = make_segments(sizes, offset)
    generator = torch.Generator().manual_seed(1)
    parameter = torch.randn(size + padding, generator=generator).to(device)
    gradient = torch.randn(size + padding, generator=generator).to(device, dtype)
    states = [[parameter.clone(), *parameter.new_zeros(2, size + padding)] for _ in range(2)]
    for step in range(1, 4):
        for (p, m, v), module in zip(states, (reference, lamb), strict=True):
            corrections = (1 - 0.9**step, 1 - 0.999**step)
            norms = module.lamb_moments(
                p, gradient * step, m, v, segments, len(sizes), betas=(0.9, 0.999), eps=1e-6,
                bias_corrections=corrections,
                gradient_scale=None if scale is None else torch.tensor(scale, device=device),
            )  # fmt: skip
            assert norms.shape == (2, len(sizes))
            module.lamb_apply(
                p, m, v, segments, norms, lr=0.1, eps=1e-6, bias_corrections=corrections,
                max_trust_ratio=10.0,
            )  # fmt: skip
    for found, expected in zip(states[1], states[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(states[1][0][size:], parameter[size:]), "padding is left alone"


def test_a_tensor_of_zeros_takes_the_plain_step():
    segments = (Segment(0, 10, 0, 0.0),)
    states = []
    for module in (reference, lamb):
        p, m, v = torch.zeros(3, 10)
        norms = module.lamb_moments(
            p, torch.ones(10), m, v, segments, 1, betas=(0.9, 0.999), eps=1e-6,
            bias_corrections=(0.1, 0.001),
        )  # fmt: skip
        module.lamb_apply(p, m, v, segments, norms, lr=0.1, eps=1e-6, bias_corrections=(0.1, 0.001))
        states.append(p)
    torch.testing.assert_close(*states)
    assert states[0].abs().min() > 0.09


@pytest.mark.parametrize("module", [reference, lamb], ids=["twin", "kernel"])
@pytest.mark.parametrize("found_inf", [0.0, 1.0])
def test_found_inf_leaves_everything_as_it_is(module, found_inf):
    segments, size = make_segments([5000, 4096, 1], 0)
    tensors = [torch.rand(size) for _ in range(3)]
    before, gradient = [tensor.clone() for tensor in tensors], torch.ones(size)
    if found_inf:
        gradient[7] = torch.nan
    how = {"eps": 1e-6, "bias_corrections": (0.1, 0.001), "found_inf": torch.tensor(found_inf)}
    norms = module.lamb_moments(
        tensors[0], gradient, *tensors[1:], segments, 3, betas=(0.9, 0.999), **how
    )
    module.lamb_apply(*tensors, segments, norms, lr=0.1, **how)
    changed = [not torch.equal(*pair) for pair in zip(tensors, before, strict=True)]
    assert changed == [not found_inf] * 3
