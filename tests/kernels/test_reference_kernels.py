"""The plain-torch twins of the kernels against float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from ds_bert_kernels.reference.lamb import Segment, lamb_apply, lamb_moments
from ds_bert_kernels.reference.masked_lm_head import masked_lm_loss


def head_inputs(positions, dtype=torch.float32, hidden=33, vocabulary=101):
    generator = torch.Generator().manual_seed(positions)
    tensors = [
        torch.randn(positions, hidden, generator=generator),
        torch.randn(vocabulary, hidden, generator=generator) * 0.2,
        torch.randn(vocabulary, generator=generator) * 0.1,
    ]
    labels = torch.randint(0, vocabulary, (positions,), generator=generator)
    return [tensor.to(dtype).requires_grad_() for tensor in tensors], labels


def relative_error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("positions", [1, 5, 64])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)]
)
def test_loss_and_gradients_against_float64(positions, dtype, tolerance):
    inputs, labels = head_inputs(positions, dtype)
    labels[::3] = -100
    labels[-1] = 0
    loss, correct = masked_lm_loss(*inputs, labels)
    loss.backward()

    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    logits = exact[0] @ exact[1].T + exact[2]
    exact_loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
    exact_loss.backward()
    assert loss.dtype == torch.float32 and loss.shape == ()
    assert correct.dtype == torch.int64 and correct.shape == ()
    assert relative_error(loss.detach(), exact_loss.detach()) < tolerance
    assert correct == (logits.argmax(-1) == labels).sum()
    for found, wanted in zip(inputs, exact, strict=True):
        assert found.grad.dtype == dtype
        assert relative_error(found.grad, wanted.grad) < tolerance


@pytest.mark.parametrize("positions", [0, 4])
def test_no_labels_give_zero_loss_with_gradients(positions):
    inputs, labels = head_inputs(positions)
    loss, correct = masked_lm_loss(*inputs, labels.fill_(-100))
    loss.backward()
    assert loss == 0 and correct == 0
    for tensor in inputs:
        assert tensor.grad.shape == tensor.shape and not tensor.grad.any()


def test_ignored_label_inside_the_vocabulary_is_never_correct():
    (hidden, weight, _), labels = head_inputs(6)
    bias = torch.zeros(len(weight))
    bias[7] = 1e4  # id 7 always wins
    loss, correct = masked_lm_loss(hidden, weight, bias, labels.fill_(7), ignore_index=7)
    assert loss == 0 and correct == 0
    assert masked_lm_loss(hidden, weight, bias, labels)[1] == 6


SIZES = [7, 1, 40, 13]  # tensors of one flat parameter vector
DECAYS = [0.01, 0.0, 0.1, 0.01]
EPS, RATE, BETAS = 1e-6, 0.02, (0.9, 0.99)
CUTS = [[], [7], [20], [3, 8, 47, 60]]  # partition edges, on and off the tensors' edges


def partitions(cuts):
    """Ranges of the partitions and the segments in each; the last has 3 elements of padding."""
    edges = [0, *cuts, sum(SIZES) + 3]
    for begin, end in itertools.pairwise(edges):
        segments, position = [], 0
        for tensor, (size, decay) in enumerate(zip(SIZES, DECAYS, strict=True)):
            first, last = max(begin, position), min(end, position + size)
            if first < last:
                segments.append(Segment(first - begin, last - first, tensor, decay, tensor != 3))
            position += size
        yield slice(begin, end), segments


def exact_step(p, g, m, v, step):
    """Float64 LAMB over the tensors of a flat vector; tensor 3 takes plain steps."""
    for tensor, piece in enumerate(torch.arange(sum(SIZES)).split(SIZES)):
        m[piece] = BETAS[0] * m[piece] + (1 - BETAS[0]) * g[piece]
        v[piece] = BETAS[1] * v[piece] + (1 - BETAS[1]) * g[piece] ** 2
        m_hat, v_hat = m[piece] / (1 - BETAS[0] ** step), v[piece] / (1 - BETAS[1] ** step)
        update = m_hat / (v_hat.sqrt() + EPS) + DECAYS[tensor] * p[piece]
        ratio = p[piece].norm() / update.norm() if tensor != 3 else 1.0
        p[piece] -= RATE * min(ratio, 0.7) * update if tensor != 3 else RATE * update


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_lamb_passes_against_float64(cuts):
    generator = torch.Generator().manual_seed(0)
    p = F.pad(torch.randn(sum(SIZES), generator=generator), (0, 3))
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    exact = [tensor.double() for tensor in (p, m, v)]
    parts = list(partitions(cuts))
    for step in range(1, 5):
        g = F.pad(torch.randn(sum(SIZES), generator=generator), (0, 3))
        constants = {"eps": EPS, "bias_corrections": tuple(1 - beta**step for beta in BETAS)}
        norms = sum(
            lamb_moments(
                p[part], 2 * g[part], m[part], v[part], segments, len(SIZES), betas=BETAS,
                gradient_scale=torch.tensor(0.5), **constants,
            )
            for part, segments in parts
        )  # fmt: skip
        for part, segments in parts:
            lamb_apply(
                p[part], m[part], v[part], segments, norms, lr=RATE, max_trust_ratio=0.7,
                **constants,
            )  # fmt: skip
        exact_step(exact[0], g.double(), *exact[1:], step)
    for found, wanted in zip((p, m, v), exact, strict=True):
        assert relative_error(found, wanted) < 1e-6
        assert not found[-3:].any()


def test_norm_of_a_large_tensor_is_accurate():
    """As large as a word embedding, where a plain fp32 accumulation loses three digits."""
    p = torch.randn(8_000_000, generator=torch.Generator().manual_seed(0)) * 0.02
    zeros = torch.zeros_like(p)
    norms = lamb_moments(
        p, zeros, zeros.clone(), zeros.clone(), [Segment(0, len(p), 0, 0.0)], 1,
        betas=BETAS, eps=EPS, bias_corrections=(1.0, 1.0),
    )  # fmt: skip
    assert relative_error(norms[0, 0], p.double().square().sum()) < 1e-6
    assert norms[1, 0] == 0
