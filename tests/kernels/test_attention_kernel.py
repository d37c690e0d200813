"""The attention kernels in Triton's interpreter, against their plain-torch twin in float64."""

from itertools import combinations

import pytest
import torch

pytest.importorskip("triton", reason="needs triton (extra dev)")
from ds_bert_kernels import attention
from ds_bert_kernels.attention import AMPERE, varlen_attention
from ds_bert_kernels.reference import attention as reference
from gpu_marks import NEEDS_GPU

SEED = torch.tensor([0x1234_5678_9ABC_DEF0])
TILED = 129  # a max_length for which even short sequences are worked off tile by tile


def inputs(*lengths, dtype=torch.float32, heads=1):
    generator = torch.Generator().manual_seed(5)
    qkv = torch.randn(sum(lengths), 3, heads, 64, generator=generator).to(dtype)
    return qkv, torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def run(kernel, qkv, cu_seqlens, max_length, dropout=0.0, seed=SEED):
    """Output and gradient."""
    qkv = qkv.detach().requires_grad_()
    output = kernel(qkv, cu_seqlens, max_length, dropout, seed)
    weight = torch.linspace(-1, 1, output.numel()).view_as(output).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, qkv, weight)


def errors(found, exact):
    return [float((f.double() - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True)]


def require_right(lengths, max_length, dtype, dropout, heads=1, device="cpu"):
    """Not further from float64 than torch is in the same dtype, by more than a little."""
    qkv, cu_seqlens = (x.to(device) for x in inputs(*lengths, dtype=dtype, heads=heads))
    others = cu_seqlens, max_length, dropout, SEED.to(device)
    exact = run(reference.varlen_attention, qkv.double(), *others)
    plain = errors(run(reference.varlen_attention, qkv, *others), exact)
    found = errors(run(varlen_attention, qkv, *others), exact)
    slack = {torch.float32: 2e-7, torch.float16: 5e-5, torch.bfloat16: 4e-4}[dtype]
    for error, usual in zip(found, plain, strict=True):
        assert error < 1.2 * usual + slack, (found, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("lengths", "max_length", "dropout", "heads"),
    [
        ((1, 2, 127, 128), 128, 0.0, 2),
        ((127, 1, 2), 128, 0.1, 1),
        ((2, 129, 1), TILED, 0.0, 2),
        ((1, 70, 2), TILED, 0.1, 1),
    ],
)
def test_output_and_gradient(lengths, max_length, dtype, dropout, heads):
    require_right(lengths, max_length, dtype, dropout, heads)


def test_long_sequence():
    require_right((512,), 512, torch.float16, 0.0)


@pytest.mark.parametrize(
    "dtype", [pytest.param(d, marks=NEEDS_GPU) for d in (torch.bfloat16, torch.float16)]
)
def test_on_a_gpu(dtype):
    """With dropout: the masks of forward, backward and the twin are the same."""
    for lengths, longest in (((1, 128, 77, 0, 127), 128), ((1, 512, 64, 0, 129, 300), 512)):
        for dropout in (0.0, 0.1):
            require_right(lengths * 3, longest, dtype, dropout, 12, "cuda")


def test_tiles_of_other_gpus(monkeypatch):
    """There is no backward pass for short sequences alone."""
    monkeypatch.setattr(attention, "_tiling", lambda device: AMPERE)
    require_right((65, 3), 128, torch.float32, 0.1)


def test_no_sequences_and_empty_ones():
    qkv, cu_seqlens = inputs()
    for found in run(varlen_attention, qkv, cu_seqlens, 128, 0.1):
        assert len(found) == 0
    qkv, cu_seqlens = inputs(0, 3, 0, 2)
    for max_length in (128, TILED):
        found = run(varlen_attention, qkv, cu_seqlens, max_length)
        exact = run(reference.varlen_attention, qkv.double(), cu_seqlens, max_length)
        assert max(errors(found, exact)) < 1e-6


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of NaN
@pytest.mark.parametrize("max_length", [128, TILED])
def test_sequences_know_nothing_of_each_other(max_length):
    """Bit for bit, whatever the others are; which of their weights are dropped goes by place."""
    lengths = (3, 66, 5)
    qkv, cu_seqlens = inputs(*lengths)
    whole = [run(varlen_attention, qkv, cu_seqlens, max_length, dropout) for dropout in (0.0, 0.1)]
    spoilt = qkv.clone()
    spoilt[3:69] = torch.tensor([torch.inf, -torch.inf, torch.nan]).repeat(22)[:, None, None, None]
    for dropout, expected in zip((0.0, 0.1), whole, strict=True):
        found = run(varlen_attention, spoilt, cu_seqlens, max_length, dropout)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one[:3], other[:3])
            assert torch.equal(one[69:], other[69:])
            assert one[3:69].isnan().all()
    alone, borders = qkv[69:], torch.tensor([0, 5], dtype=torch.int32)
    output = varlen_attention(alone, borders, max_length, 0.0, None)
    assert torch.equal(output, whole[0][0][69:])


@pytest.mark.parametrize("max_length", [128, TILED])
def test_everything_dropped(max_length):
    qkv, cu_seqlens = inputs(9, 2)
    for found in run(varlen_attention, qkv, cu_seqlens, max_length, 1 - 1e-9):
        assert (found == 0).all()


@pytest.mark.parametrize("max_length", [128, TILED])
def test_same_bits_again(max_length):
    qkv, cu_seqlens = inputs(70, 4)
    first, second = (run(varlen_attention, qkv, cu_seqlens, max_length, 0.1) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_views_are_taken():
    qkv, cu_seqlens = inputs(5, 3)
    turned = qkv.transpose(0, 1).contiguous().transpose(0, 1)
    assert not turned.is_contiguous()
    found, expected = (run(varlen_attention, x, cu_seqlens, 128) for x in (turned, qkv))
    assert all(map(torch.equal, found, expected))


def test_masks_are_unrelated():
    """Between queries, keys, heads and seeds; the kernels' are the twin's, as the errors show."""
    dropout, length = 0.1, 128
    level = reference.drop_level(dropout)
    spread = (dropout * (1 - dropout)) ** 0.5
    masks = [
        (mask.double() - (1 - dropout)) / spread
        for seed in (1, 2, 1 << 32)
        for start in (0, length)  # two sequences
        for mask in reference.keep_mask(torch.tensor([seed]), start, length, 2, level)
    ]
    bound = 5 / length
    for mask in masks:
        assert abs(mask.mean()) < bound
        for lag in (1, 2, 7, 8, 16, 32, 64):
            assert abs((mask[:, lag:] * mask[:, :-lag]).mean()) < 1.5 * bound
            assert abs((mask[lag:] * mask[:-lag]).mean()) < 1.5 * bound
    for one, other in combinations(masks, 2):
        assert abs((one * other).mean()) < bound


def test_masks_do_not_depend_on_the_length():
    short, long = (reference.keep_mask(SEED, 7, length, 2, 6554) for length in (70, 200))
    assert torch.equal(short, long[:, :70, :70])


def test_drop_level():
    assert [reference.drop_level(p) for p in (0.0, 0.5, 0.1, 1.0)] == [0, 1 << 15, 6554, 65535]


def test_longest_sequences_come_first(monkeypatch):
    monkeypatch.setattr(attention, "_LENGTHS_AT_ONCE", 4)
    qkv, cu_seqlens = inputs(3, 65, 65, 0, 130, 64)
    work = attention._list_work(qkv, cu_seqlens, 64)
    tiles = [[4, 0], [4, 64], [4, 128], [1, 0], [1, 64], [2, 0], [2, 64], [5, 0], [0, 0]]
    assert work[:9].tolist() == tiles
    assert (work[9:, 0] == -1).all()
    assert len(work) == 327 // 64 + 6


def test_compiled_code_is_one_graph():
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def compiled(qkv, cu_seqlens, max_length, dropout, seed):
        return varlen_attention(qkv * 2, cu_seqlens, max_length, dropout, seed) + 1

    for lengths in ((3, 2), (4, 6, 1)):
        qkv, cu_seqlens = inputs(*lengths)
        found = run(compiled, qkv, cu_seqlens, 128, 0.1)
        output, gradient = run(varlen_attention, 2 * qkv, cu_seqlens, 128, 0.1)
        assert torch.equal(found[0], output + 1)
        assert torch.equal(found[1], 2 * gradient)


def test_operators_keep_the_rules_of_custom_ones():
    qkv, cu_seqlens = inputs(3, 2)
    torch.library.opcheck(attention._attend, (qkv.requires_grad_(), cu_seqlens, 128, 0.1, SEED))


def test_refusals():
    qkv, cu_seqlens = inputs(3)
    with pytest.raises(ValueError, match="head size 32"):
        varlen_attention(qkv[..., :32], cu_seqlens, 128, 0.0, None)
    with pytest.raises(ValueError, match="needs a seed"):
        varlen_attention(qkv, cu_seqlens, 128, 0.1, None)
