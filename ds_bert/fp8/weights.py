"""Weights in fp8: cast once per optimizer step, for all of its micro-batches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ds_bert.fp8.cast import cast

_steps = 0  # of all optimizers of this process


def _count(*_: Any) -> None:
    global _steps
    _steps += 1


# DeepSpeed writes weights through other tensors of the same memory, so that the parameters' own
# counts of changes stay as they are; but an optimizer has been at work.
register_optimizer_step_post_hook(_count)


class Weight(NamedTuple):
    """Linear layers side by side, of together N outputs.

    Attributes:
        rows: fp8 [N, K].
        columns: fp8 [K, N].
        scale: fp32 [], of both.
        bias: [N], in the activations' dtype, aligned as matrix products want it.
    """

    rows: Tensor
    columns: Tensor
    scale: Tensor
    bias: Tensor


class Weights:
    """The weights of some linear layers, cast anew where they may have changed.

    They are scaled by their own largest values: read twice, but once in a step.
    """

    def __init__(self) -> None:
        self._made_from: Any = None
        self._cast: list[Weight] = []

    def get(self, groups: Sequence[Sequence[nn.Linear]]) -> list[Weight]:
        """Of each group of layers that share an input; always of the same groups."""
        state = _state_of(groups)
        if state != self._made_from:
            self._cast, self._made_from = [_cast(group) for group in groups], state
        return self._cast


def _state_of(groups: Sequence[Sequence[nn.Linear]]) -> Any:
    """Differs if the weights may: after steps of an optimizer, changes in place, moves."""
    tensors = [tensor for group in groups for m in group for tensor in (m.weight, m.bias)]
    return _steps, sum(t._version for t in tensors), tuple(t.data_ptr() for t in tensors)


@torch.no_grad()
def _cast(group: Sequence[nn.Linear]) -> Weight:
    weight = torch.cat([module.weight for module in group])  # copied, if it is but one
    own = torch.tensor(True)
    made = cast(weight, weight.new_ones((), dtype=torch.float32), own)
    bias = torch.cat([module.bias for module in group])
    # The sizes of parameters are constants to torch.compile, else a batch might have the same ones.
    rows, columns, bias = (
        nn.Parameter(part, requires_grad=False) for part in (made.rows, made.columns, bias)
    )
    return Weight(rows, columns, made.scale, bias)
