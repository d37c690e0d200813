"""The layout of a flat partition: found, and refused where it is another one."""

import lamb_cases
import lamb_reference
import pytest
import torch
from distributed_util import join_group
from lamb_cases import Case
from torch import nn

from ds_bert.optim.flat_partition import cut_into_pieces
from ds_bert.optim.lamb import Lamb
from ds_bert.optim.optimizers import check_optimizer


@pytest.fixture(scope="module", autouse=True)
def _group():
    join_group()


def build_lamb(tensors: list[nn.Parameter], **options) -> Lamb:
    """A Lamb of plain tensors, with the defaults of recipes."""
    return Lamb(tensors, **check_optimizer({"type": "Lamb", "params": options})[1])


def test_step_without_bind_is_refused():
    engine, _ = lamb_cases.build_engine(Case(), lamb_reference.build_model(), bind=False)
    with pytest.raises(RuntimeError, match="call bind"):
        lamb_cases.train(engine, lamb_reference.batches(1))


def test_bind_refuses_other_values():
    model = lamb_reference.build_model()
    _, optimizer = lamb_cases.build_engine(Case(), model, bind=False)
    with torch.no_grad():
        model.cls.predictions.transform.dense.weight[0, 0] += 1
    with pytest.raises(RuntimeError, match=r"values of tensor .* differ"):
        optimizer.bind()


def flatten(tensors: list[nn.Parameter], order: list[int], size: int) -> torch.Tensor:
    """What an engine with one rank does, with the tensors in any order."""
    flat, position = torch.zeros(size), 0
    for index in order:
        tensor = tensors[index]
        view = flat[position : position + tensor.numel()].view(tensor.shape)
        tensor.data = view.copy_(tensor.data)
        position += tensor.numel()
    return flat.clone().requires_grad_()


@pytest.mark.parametrize(
    ("order", "size", "message"),
    [
        ([0, 1, 2], 12, None),
        ([1, 0, 2], 12, "tensor 1 lies at 0"),  # all zeros: the values alone look right
        ([0, 1, 2], 14, r"found 14 x 1 elements, expected 12"),
    ],
)
def test_bind_refuses_another_layout(order, size, message):
    tensors = [nn.Parameter(torch.zeros(n)) for n in (5, 2, 4)]
    optimizer = build_lamb(tensors, lr=0.1)
    optimizer.param_groups[0]["params"] = [flatten(tensors, order, size)]
    if message is None:
        optimizer.bind()
    else:
        with pytest.raises(RuntimeError, match=message):
            optimizer.bind()


def test_pieces_tile_every_tensor_once():
    sizes, world_size = [3, 11, 1, 6], 4  # 21 elements in partitions of 6: the last holds padding
    elements = [
        (piece.tensor, piece.offset + i)
        for rank in range(world_size)
        for piece in cut_into_pieces(sizes, 6, rank)
        for i in range(piece.length)
    ]
    assert elements == [(tensor, i) for tensor, size in enumerate(sizes) for i in range(size)]
    assert cut_into_pieces([5], 6, rank=1) == []


def test_zero_norms_have_ratio_one():
    zero, still = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))
    optimizer = build_lamb([zero, still], lr=0.5, weight_decay=0.0, max_trust_ratio=0.1)
    zero.grad, still.grad = torch.tensor([1.0, -2.0, 3.0]), torch.zeros(3)
    optimizer.step()
    # The first bias-corrected update is the sign of the gradient.
    assert torch.allclose(zero.detach(), torch.tensor([-0.5, 0.5, -0.5]), atol=1e-5)
    assert torch.equal(still.detach(), torch.ones(3))
