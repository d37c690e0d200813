"""All ranks hold the same weights, bit for bit, and stand at the same place in the data.

With ZeRO-1 each rank updates its part of the weights and gets the others' parts, so the copies that
the ranks compute with are equal. A fault of memory or network makes them differ without an error.
"""

from typing import Any

import torch
from torch import Tensor

from ds_bert import distributed
from ds_bert.errors import RankFailed
from ds_bert.guards.agreement import majority

_CHUNK = 1 << 22  # elements at a time, so that the temporary memory stays small
_ODD = 0x1E3779B97F4A7C15  # any large odd number


def require_equal_replicas(model: torch.nn.Module, position: dict[str, int]) -> None:
    """Compare weights and position over ranks; called by all of them, and free for one alone.

    Args:
        model: whose parameters are the same on all ranks.
        position: where the run stands, by name; "step" among others.

    Raises:
        RankFailed: on all ranks; names the odd one and the first of its tensors that differs.
    """
    if not distributed.is_distributed():
        return
    mine = position | hashes(model)
    everyone = distributed.gather((distributed.name(), mine))
    usual = majority([tuple(values.items()) for _, values in everyone])
    odd = [
        (name, next(key for key, value in usual if values.get(key) != value))
        for name, values in everyone
        if tuple(values.items()) != usual
    ]
    if odd:
        others = "rank 0" if len(everyone) == 2 else "the others"
        raise RankFailed(
            f"step {position['step']}: {odd[0][0]} differs from {others}, first in {odd[0][1]} "
            f"({len(odd)} of {len(everyone)} ranks differ); a fault of memory, device or network: "
            "start again without that host, to go on from the last checkpoint"
        )


@torch.no_grad()
def hashes(model: torch.nn.Module) -> dict[str, Any]:
    """A number for each parameter by name, from its bits; made on its device, fetched at once."""
    named = dict(model.named_parameters())
    numbers = torch.stack([hash_of_bits(tensor) for tensor in named.values()])
    return dict(zip(named, numbers.tolist(), strict=True))


def hash_of_bits(tensor: Tensor) -> Tensor:
    """Sum of all words of 8 bytes, each times an odd number of its own, modulo 2**64.

    Multiplied by an odd number, no change of a single word is lost.

    Args:
        tensor: any shape and dtype.

    Returns:
        int64 [].
    """
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    odd = 2 * torch.arange(min(tensor.numel(), _CHUNK), device=tensor.device) + 1
    for part in tensor.detach().reshape(-1).split(_CHUNK):
        words = _words(part)
        total = total * _ODD + (words * odd[: len(words)] * _ODD).sum()
    return total


def _words(part: Tensor) -> Tensor:
    """The bytes as int64; copied, because a slice of a buffer may start between two words."""
    raw = part.clone().view(torch.uint8)
    if len(raw) % 8:
        raw = torch.nn.functional.pad(raw, (0, -len(raw) % 8))
    return raw.view(torch.int64)
