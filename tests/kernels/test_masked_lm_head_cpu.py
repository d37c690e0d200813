"""The head whose gradient takes the place of the logits, against float64 and plain torch."""

import pytest
import torch
from ds_bert_kernels import reference
from ds_bert_kernels.masked_lm_head_cpu import masked_lm_loss
from test_masked_lm_head import errors, float64, inputs, run

SHAPES = [(1, 8, 8), (16, 1000, 64), (37, 5000, 33)]  # one row, one turn, several and a rest


def without_ignored(shape, dtype=torch.float32):
    tensors, labels = inputs(*shape, dtype)
    return tensors, labels.where(labels >= 0, 3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2.4e-3)])
def test_no_worse_than_torch(shape, dtype, tolerance):
    tensors, labels = without_ignored(shape, dtype)
    exact = run(float64, [tensor.double() for tensor in tensors], labels)
    plain = run(reference.masked_lm_loss, tensors, labels)
    ours = run(masked_lm_loss, tensors, labels)
    for found, baseline in zip(errors(ours, exact), errors(plain, exact), strict=True):
        assert found <= baseline + tolerance
    assert ours[0].dtype == torch.float32 and ours[1].dtype == torch.int64
    assert ours[1] == plain[1]
    assert all(gradient.dtype == dtype for gradient in ours[2])


def test_the_scale_of_a_loss_is_not_rounded_to_16_bits():
    tensors, labels = without_ignored((16, 1000, 64), torch.bfloat16)
    gradients = []
    for scale in (1.0, 1 / 550):  # 1/550 is 0.1 % off in bf16
        leaf = tensors[0].clone().requires_grad_()
        (masked_lm_loss(leaf, *tensors[1:], labels)[0] * scale).backward()
        gradients.append(leaf.grad.double().norm() / scale)
    torch.testing.assert_close(*gradients, rtol=4e-4, atol=0)


@pytest.mark.parametrize(
    ("dtype", "ignored"), [(torch.float16, 3), (torch.float32, 7)], ids=["fp16", "ignored"]
)
def test_what_is_left_to_the_reference(dtype, ignored):
    tensors, labels = without_ignored((9, 60, 16), dtype)
    labels[4] = 7
    ours = run(masked_lm_loss, tensors, labels, ignore_index=ignored)
    plain = run(reference.masked_lm_loss, tensors, labels, ignore_index=ignored)
    assert ours[:2] == plain[:2]
    assert all(torch.equal(a, b) for a, b in zip(ours[2], plain[2], strict=True))


def test_no_positions_give_zero_loss_with_gradients():
    tensors, labels = without_ignored((4, 60, 16))
    tensors[0], labels = tensors[0][:0], labels[:0]
    loss, correct, gradients = run(masked_lm_loss, tensors, labels)
    assert loss == 0 and correct == 0
    assert [g.shape for g in gradients] == [t.shape for t in tensors]
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_row_that_is_not_finite_shows_in_the_loss(value):
    tensors, labels = without_ignored((8, 60, 16))
    tensors[0][-1, 0] = value
    assert not torch.isfinite(run(masked_lm_loss, tensors, labels)[0])


def test_far_from_the_largest_logit():
    tensors, labels = without_ignored((2, 60, 16))
    tensors[2][:] = torch.arange(60.0) * 10
    ours = run(masked_lm_loss, tensors, labels.fill_(0))  # its probability is 0 in fp32
    torch.testing.assert_close(ours[0], run(reference.masked_lm_loss, tensors, labels)[0])


def test_gradients_may_be_taken_twice():
    tensors, labels = without_ignored((5, 60, 16))
    leaf = tensors[0].requires_grad_()
    loss, _ = masked_lm_loss(*tensors, labels)
    one, other = (torch.autograd.grad(loss, leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(one, other)
