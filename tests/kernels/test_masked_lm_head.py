"""The Triton head in the interpreter, or on a GPU, against float64, no worse than plain torch.

The interpreter computes bf16 wrongly, so bf16 is compiled only (test_compiled_kernels.py).
"""

import pytest
import torch
import torch.nn.functional as F
from ds_bert_kernels.masked_lm_head import masked_lm_loss
from ds_bert_kernels.reference import masked_lm_head as reference
from gpu_marks import NEEDS_GPU

SHAPES = [(1, 8, 8), (5, 1000, 100), (37, 1000, 64), (16, 5000, 33), (150, 40, 8)]
CHUNKED = 3 * 5120 * 4  # bytes of logits: a few rows at a time


def inputs(positions, vocabulary, hidden, dtype=torch.float32):
    generator = torch.Generator().manual_seed(positions)
    tensors = [
        torch.randn(positions, hidden, generator=generator),
        torch.randn(vocabulary, hidden, generator=generator) * 0.2,
        torch.randn(vocabulary, generator=generator) * 0.1,
    ]
    labels = torch.randint(0, vocabulary, (positions,), generator=generator)
    labels[::3] = -100
    labels[-1:] = vocabulary - 1
    return [tensor.to(dtype) for tensor in tensors], labels


def run(function, tensors, labels, **options):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    loss, correct = function(*leaves, labels, **options)
    (loss * 1.5).backward()
    return loss.detach(), correct, [leaf.grad for leaf in leaves]


def float64(hidden, weight, bias, labels):
    logits = hidden @ weight.T + bias
    return F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"), None


def errors(found, expected):
    pairs = [(found[0], expected[0]), *zip(found[2], expected[2], strict=True)]
    return [float((a.double() - b).norm() / b.norm().clamp(min=1e-30)) for a, b in pairs]


@pytest.mark.parametrize("limit", [1 << 30, CHUNKED], ids=["one_chunk", "chunks"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("device", "dtype", "tolerance"),
    [
        ("cpu", torch.float32, 2e-6),
        ("cpu", torch.float16, 3e-4),
        pytest.param("cuda", torch.float32, 2e-6, marks=NEEDS_GPU),
        pytest.param("cuda", torch.float16, 3e-4, marks=NEEDS_GPU),
        pytest.param("cuda", torch.bfloat16, 2.4e-3, marks=NEEDS_GPU),
    ],
)
def test_no_worse_than_torch(shape, device, dtype, tolerance, limit):
    tensors, labels = inputs(*shape, dtype)
    tensors, labels = [tensor.to(device) for tensor in tensors], labels.to(device)
    exact = run(float64, [tensor.double() for tensor in tensors], labels)
    plain = run(reference.masked_lm_loss, tensors, labels)
    ours = run(masked_lm_loss, tensors, labels, max_logits_bytes=limit)
    for found, baseline in zip(errors(ours, exact), errors(plain, exact), strict=True):
        assert found <= baseline + tolerance
    assert ours[1] == plain[1]
    assert all(gradient.dtype == dtype for gradient in ours[2])


@pytest.mark.parametrize("positions", [0, 4])
def test_nothing_to_predict(positions):
    tensors, labels = inputs(positions, 50, 16)
    loss, correct, gradients = run(masked_lm_loss, tensors, labels.fill_(-100))
    assert loss == 0 and correct == 0
    assert not any(gradient.any() for gradient in gradients)


def test_inputs_that_are_not_contiguous():
    (hidden, weight, bias), labels = inputs(9, 60, 16)
    expected = run(masked_lm_loss, [hidden, weight, bias], labels)
    strided = [hidden.T.contiguous().T, weight.T.contiguous().T, bias.repeat(2, 1).T[:, 0]]
    found = run(masked_lm_loss, strided, labels.repeat(2, 1).T[:, 0])
    assert found[0] == expected[0]
    for one, other in zip(found[2], expected[2], strict=True):
        torch.testing.assert_close(one, other)


# numpy in the interpreter:
@pytest.mark.filterwarnings("ignore:(invalid value|All-NaN):RuntimeWarning")
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_row_that_is_not_finite_shows_in_the_loss(value):
    tensors, labels = inputs(8, 60, 16)
    tensors[0][-1, 0] = value
    loss, _, _ = run(masked_lm_loss, tensors, labels)
    assert not torch.isfinite(loss)


def test_entries_of_minus_infinity_are_left_out():
    tensors, labels = inputs(8, 5000, 16)
    tensors[2][:4500] = -float("inf")  # a whole block of them first
    labels.fill_(4999)
    ours = run(masked_lm_loss, tensors, labels)
    plain = run(reference.masked_lm_loss, tensors, labels)
    torch.testing.assert_close(ours[0], plain[0])
    torch.testing.assert_close(ours[2][0], plain[2][0])


def test_the_first_of_equal_largest_logits_counts():
    hidden, weight, bias = torch.zeros(2, 4), torch.zeros(5000, 4), torch.zeros(5000)
    bias[[7, 4500]] = 1.0
    assert masked_lm_loss(hidden, weight, bias, torch.tensor([7, 4500]))[1] == 1


@pytest.mark.parametrize("place", [6, 7, 8, 70])
def test_ties_beside_the_label(place):
    """In its own vector of 16 bytes, the one before, another lane's."""
    hidden, weight, bias = torch.zeros(1, 4), torch.zeros(200, 4), torch.zeros(200)
    bias[[7, place]] = 1.0
    correct = masked_lm_loss(hidden, weight, bias, torch.tensor([7]))[1]
    assert correct == (place >= 7)


def test_a_label_that_does_not_count_may_be_a_number_of_the_vocabulary():
    tensors, labels = inputs(21, 60, 16)
    labels[::3] = labels[2::5] = 9
    ours, plain = (
        run(function, tensors, labels, ignore_index=9)
        for function in (masked_lm_loss, reference.masked_lm_loss)
    )
    assert ours[1] == plain[1]
    for one, other in zip([ours[0], *ours[2]], [plain[0], *plain[2]], strict=True):
        torch.testing.assert_close(one, other)


def test_a_second_backward_pass_is_the_first():
    tensors, labels = inputs(9, 60, 16)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    loss, _ = masked_lm_loss(*leaves, labels)
    one, other = (torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, one, other))


def test_the_same_input_gives_the_same_bits():
    tensors, labels = inputs(37, 1000, 64)
    one, other = (run(masked_lm_loss, tensors, labels) for _ in range(2))
    assert one[0] == other[0]
    assert all(torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True))


def test_the_gradient_of_a_tied_weight_is_the_sum_of_both_uses():
    tensors, labels = inputs(12, 80, 16)
    ids = torch.arange(12)
    gradients = []
    for function in (masked_lm_loss, reference.masked_lm_loss):
        weight = tensors[1].clone().requires_grad_()
        loss, _ = function(F.embedding(ids, weight), weight, tensors[2], labels)
        loss.backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients)
