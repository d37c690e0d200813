"""Ranks compute the same thing, or stop.

Before a run its settings, data, packages and sources are compared; during it, the weights. With
ZeRO-1 each rank updates its part of the weights and gets the others' parts, so the copies that the
ranks compute with are equal, bit for bit. A fault of memory or network makes them differ without an
error.
"""

import platform
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ds_bert import distributed
from ds_bert.errors import ConfigurationError, RankFailed
from ds_bert.guards.hosts import once_per_host
from ds_bert.preflight import software
from ds_bert.preflight.compare import majority

_SHOWN = 5  # fields named in a message
_CHUNK = 1 << 18  # elements at a time: temporary values stay in a cache
_ODD = 0x1E3779B97F4A7C15  # any large odd number


def machine() -> dict[str, Any]:
    """What runs on this rank: versions and a hash over the sources; called by all ranks."""
    python = ".".join(platform.python_version_tuple()[:2])
    sources = once_per_host(software.hash_of_sources)  # some 230 files, on a shared disk perhaps
    return {"python": python, "packages": software.packages(), "sources of ds_bert": sources}


def require_agreement(facts: dict[str, Any]) -> None:
    """Refuse ranks that would not compute the same; called by all of them.

    Args:
        facts: plain values by name, nested as you like. What may differ between hosts, such as
            paths, must not be in it.

    Raises:
        ConfigurationError: on all ranks; names field, rank, host and both values.
    """
    everyone = distributed.gather((distributed.name(), dict(_flat(facts)), _may_differ()))
    names, values, hosts = zip(*everyone, strict=True)
    _warn(differences(names, hosts))
    found = differences(names, values)
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ConfigurationError(
            f"ranks do not agree: {'; '.join(found[:_SHOWN])}{more}. Start all of them with the "
            "same recipe, data, packages and sources"
        )


def differences(names: tuple[str, ...], values: tuple[dict[str, Any], ...]) -> list[str]:
    """Each field in which somebody differs from most: "seed: rank 1 (b) has 7, rank 0 (a) 42"."""
    fields = dict.fromkeys(field for mine in values for field in mine)
    lines = []
    for field in fields:
        found = [repr(mine.get(field)) for mine in values]
        usual = majority(found)
        odd = [rank for rank, value in enumerate(found) if value != usual]
        if odd:
            more = f" (and {len(odd) - 1} more ranks)" if len(odd) > 1 else ""
            other = names[found.index(usual)]
            lines.append(f"{field}: {names[odd[0]]} has {found[odd[0]]}{more}, {other} {usual}")
    return lines


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _may_differ() -> dict[str, Any]:
    """Told, not refused: gives other rounding or speed at most."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": device, "python": platform.python_version()}


def _warn(found: list[str]) -> None:
    for line in found:
        distributed.log(f"warning: hosts differ, {line}")


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
