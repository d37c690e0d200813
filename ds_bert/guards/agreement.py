"""Ranks compute the same thing or do not start: settings, data, packages and sources compared."""

import platform
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import xxhash

from ds_bert import distributed
from ds_bert.errors import ConfigurationError

PACKAGES = ("torch", "deepspeed", "transformers", "numpy", "numba")
_SHOWN = 5  # fields named in a message


def machine() -> dict[str, Any]:
    """What runs on this rank: versions and a hash over the sources."""
    packages = {name: version(name) for name in PACKAGES}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, "packages": packages, "sources of ds_bert": _hash_of_sources()}


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


def majority(values: list[Any]) -> Any:
    """What most ranks have; in a tie, the value that comes first."""
    return Counter(values).most_common(1)[0][0]


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


def _hash_of_sources() -> str:
    """Over names and contents; a checkout and an installed wheel of it give the same."""
    digest = xxhash.xxh3_128()
    for package in ("ds_bert", "ds_bert_kernels"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.relative_to(folder).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
