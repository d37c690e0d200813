"""Sums of gradients over ranks, sent while the backward pass of a step's last micro-batch goes on.

A rank steps with one part of the flat gradients in a row, and those are whole only after the pass.
So buckets are added up by a reduce-scatter each, which leaves a share of every bucket on every
rank, and an all-to-all at the end brings the shares where they belong: as many bytes on top as a
rank's part has, the smaller the more ranks there are.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from deepspeed import comm as dist  # torch's, and what it does is in DeepSpeed's comms_logger
from torch import Tensor

_Span = tuple[int, int]  # first element, and the one behind the last


class EarlyReduceScatter:
    """Adds up one parameter group's gradients.

    Args:
        flat: [N] gradients of this rank, tensor after tensor; N divides by the ranks.
        sizes: elements of each tensor; the rest of `flat` is padding.
        bucket_size: elements of a bucket, made to divide by the ranks.
        dtype: of what is sent.
        group: the data-parallel ranks.
    """

    def __init__(
        self, flat: Tensor, sizes: list[int], bucket_size: int, dtype: torch.dtype, group: Any
    ) -> None:
        self._flat, self._dtype, self._group = flat, dtype, group
        self._world_size, self._rank = dist.get_world_size(group), dist.get_rank(group)
        size = max(bucket_size // self._world_size, 1) * self._world_size
        self._buckets = list(pairwise([*range(0, len(flat), size), len(flat)]))
        ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
        self._touched = [
            range(first // size, (end - 1) // size + 1) for first, end in pairwise(ends)
        ]
        self._routes = [self._route(rank) for rank in range(self._world_size)]
        self._begin()

    def _begin(self) -> None:
        self._missing = [0] * len(self._buckets)  # tensors without their gradient
        for touched in self._touched:
            for bucket in touched:
                self._missing[bucket] += 1
        self._sent: list[tuple[Any, Tensor]] = []

    def arrived(self, tensor: int) -> None:
        """A tensor has all its gradient of this step; send the buckets that are whole now.

        From the last to the first and in no other order, so that all ranks send the same ones.
        """
        for bucket in self._touched[tensor]:
            self._missing[bucket] -= 1
        while (rest := len(self._buckets) - len(self._sent)) and self._missing[rest - 1] <= 0:
            self._send(rest - 1)

    def _send(self, bucket: int) -> None:
        sent = self._flat[slice(*self._buckets[bucket])].to(self._dtype)
        own = sent.view(self._world_size, -1)[self._rank]
        work = dist.reduce_scatter_fn(own, sent, group=self._group, async_op=True)  # in place
        self._sent.append((work, own))

    def finish(self, partition: Tensor) -> None:
        """Send the rest, of tensors without a gradient too, and wait.

        Args:
            partition: [N / ranks], this rank's part of `flat`; gets the means over ranks. What is
                elsewhere in `flat` is of no use to anybody.
        """
        for bucket in reversed(range(len(self._buckets) - len(self._sent))):
            self._send(bucket)
        for work, _ in self._sent:
            work.wait()
        shares = torch.cat([own for _, own in reversed(self._sent)])
        received = torch.empty_like(shares)
        ranks = range(self._world_size)
        sizes_in = [_total(self._between(rank, self._rank)) for rank in ranks]
        sizes_out = [_total(self._between(self._rank, rank)) for rank in ranks]
        dist.all_to_all_single(received, shares, sizes_in, sizes_out, group=self._group)
        spans = [span for rank in ranks for span in self._between(rank, self._rank)]
        offset = self._rank * len(partition)
        parts = received.split([end - first for first, end in spans])
        for (first, end), part in zip(spans, parts, strict=True):
            torch.mul(part, 1 / self._world_size, out=partition[first - offset : end - offset])
        self._begin()

    def _between(self, source: int, owner: int) -> list[_Span]:
        """What a rank has of the part of another."""
        return [span for needed_by, span in self._routes[source] if needed_by == owner]

    def _route(self, rank: int) -> list[tuple[int, _Span]]:
        """A rank's shares of all buckets, cut where the rank that needs them changes."""
        length, found = len(self._flat) // self._world_size, []
        for first, end in self._buckets:
            share = (end - first) // self._world_size
            begin = first + rank * share
            for owner in range(begin // length, (begin + share - 1) // length + 1):
                span = max(begin, owner * length), min(begin + share, (owner + 1) * length)
                found.append((owner, span))
        return found


def _total(spans: Iterable[_Span]) -> int:
    return sum(end - first for first, end in spans)
