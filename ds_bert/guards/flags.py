"""Small facts of a step that all ranks have to know, in one message that nobody waits for."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from ds_bert.distributed import is_distributed


class Flags:
    """Whether each of some flags is set on at least one rank; asked now, read later.

    Nothing waits for the device but `read`, and that only if it comes too early.

    Args:
        flags: plain ones, or scalars on the device; all go into one all-reduce (a collective).
        device: of this rank.
        numbers: fp32 on the device, 0 or larger or NaN; go with them.

    Attributes:
        maxima: over ranks, of `numbers`, on the device; NaN where there is one.
    """

    def __init__(
        self,
        flags: Sequence[bool | torch.Tensor],
        device: torch.device,
        numbers: torch.Tensor | None = None,
    ):
        values = torch.stack([_on(flag, device) for flag in flags])
        if numbers is not None:  # the bits of such numbers sort as the numbers do
            values = torch.cat([values, numbers.abs().view(torch.int32).flatten()])
        if is_distributed():
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        if numbers is not None:
            self.maxima = values[len(flags) :].view(torch.float32).view_as(numbers)
            values = values[: len(flags)]
        self._values, self._arrived = values, None
        if device.type == "cuda":
            self._values = torch.empty(len(flags), dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> tuple[bool, ...]:
        """The answers, the same on every rank."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return tuple(map(bool, self._values.tolist()))


def _on(flag: bool | torch.Tensor, device: torch.device) -> torch.Tensor:
    """A flag on the device; a fill, unlike a copy from the host, does not wait."""
    if isinstance(flag, torch.Tensor):
        return flag.to(torch.int32)
    return torch.full((), int(flag), dtype=torch.int32, device=device)
