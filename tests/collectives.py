"""Counts what a stretch of code sends to other ranks: collectives, their payload and its dtype."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# By torch's name: ours, and which argument holds the whole vector (a reduce-scatter's input, an
# all-gather's output); a list stands for the tensors in it.
KINDS = {
    "allreduce_": ("all-reduce", 0),
    "_reduce_scatter_base_": ("reduce-scatter", 1),
    "_allgather_base_": ("all-gather", 0),
    "allgather_": ("all-gather", 0),
    "reduce_scatter_": ("reduce-scatter", 1),
    "reduce_": ("reduce", 0),
    "broadcast_": ("broadcast", 0),
    "alltoall_base_": ("all-to-all", 1),
    "barrier": ("barrier", 0),
}
# What a rank sends in a ring, as a multiple of (ranks - 1) / ranks of the vector; a broadcast and
# a reduce pass it on whole, which all ranks but one do.
PASSES = {"all-reduce": 2, "reduce": 1, "broadcast": 1}
PASSES |= {"reduce-scatter": 1, "all-gather": 1, "all-to-all": 1}


# Calls, and bytes of their whole vectors together, by kind and dtype.
Counted = dict[tuple[str, str], tuple[int, int]]


class Collectives(TorchDispatchMode):
    """While entered, every collective of this thread is counted, whoever calls it.

    Attributes:
        calls: by (kind, dtype).
        payload: bytes, likewise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.payload: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "c10d":
            self._count(function.overloadpacket.__name__, args)
        return function(*args, **(kwargs or {}))

    def _count(self, name: str, args: tuple) -> None:
        kind, position = KINDS[name]  # an unknown one is an error: it would not be counted
        tensors = [leaf for leaf in tree_leaves(args[position]) if isinstance(leaf, torch.Tensor)]
        key = (kind, str(tensors[0].dtype).removeprefix("torch."))
        self.calls[key] += 1
        self.payload[key] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def found(self) -> Counted:
        """What was counted."""
        return {key: (calls, self.payload[key]) for key, calls in self.calls.items()}


def bytes_of_a_rank(found: Counted, world_size: int) -> float:
    """What each rank sends if every collective is a ring: the least that any algorithm can."""
    share = (world_size - 1) / world_size
    return sum(
        PASSES.get(kind, 0) * share * num_bytes for (kind, _), (_, num_bytes) in found.items()
    )
