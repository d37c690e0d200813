"""The hostfile of DeepSpeed: `name slots=N` per line, # for comments.

DeepSpeed takes anything without a blank for a name, options of ssh as well; here a name is a name.
Source: deepspeed/launcher/runner.py, `fetch_hostfile`, `parse_resource_filter`.
"""

import ipaddress
import re
from pathlib import Path

from ds_bert.errors import ConfigurationError, require

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_LINE = re.compile(r"(\S+)\s+slots=(\d{1,4})(\s+#.*)?")


def read_hostfile(path: str | Path) -> dict[str, int]:
    """Slots of each host, in the order of the file.

    Raises:
        ConfigurationError: unreadable or empty, a line of another form, a name that is none, a
            host that comes twice, or slots that differ: DeepSpeed numbers local ranks wrongly then.
    """
    hosts: dict[str, int] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            name, slots = _host(line.strip(), f"{path}:{number}")
            if name in hosts:
                raise ConfigurationError(f"{path}:{number}: host {name} a second time; keep one")
            hosts[name] = slots
    if not hosts:
        raise ConfigurationError(f"{path}: found no host, expected lines such as: host1 slots=8")
    return hosts


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"hostfile {path}: cannot be read ({error})") from None


def _host(line: str, where: str) -> tuple[str, int]:
    match = _LINE.fullmatch(line)
    require(match is not None, where, line, "a line such as: host1 slots=8")
    assert match is not None
    require(is_host(match[1]), where, match[1], "the name or address of a host, nothing else")
    require(int(match[2]) > 0, where, line, "at least one slot")
    return match[1], int(match[2])


def is_host(name: str) -> bool:
    """Whether this is a host's name or address, that can be no option and no word of a shell."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return _NAME.fullmatch(name) is not None
    return "%" not in name


def chosen(hosts: dict[str, int], include: str = "", exclude: str = "") -> dict[str, int]:
    """How many slots of each host DeepSpeed's --include or --exclude leave; see `chosen_slots`."""
    return {name: len(slots) for name, slots in chosen_slots(hosts, include, exclude).items()}


def chosen_slots(
    hosts: dict[str, int], include: str = "", exclude: str = ""
) -> dict[str, list[int]]:
    """The hosts that DeepSpeed's --include or --exclude leave, and numbers of their slots.

    Args:
        hosts: of the hostfile.
        include: such as "host1@host2:0,2": only these hosts and slots.
        exclude: the same: all but these.

    Raises:
        ConfigurationError: both are given, a host or slot is not in the hostfile, or none is left.
    """
    if include and exclude:
        raise ConfigurationError("--include and --exclude are given; expected one of them")
    parts = (include or exclude).split("@") if include or exclude else []
    named = dict(_filter(part, hosts) for part in parts)
    if include:
        return {name: sorted(named[name]) for name in hosts if name in named}
    everything = {name: set(range(slots)) for name, slots in hosts.items()}
    left = {name: sorted(slots - named.get(name, set())) for name, slots in everything.items()}
    left = {name: slots for name, slots in left.items() if slots}
    require(bool(left), "--exclude", exclude, "that a host is left")
    return left


def _filter(part: str, hosts: dict[str, int]) -> tuple[str, set[int]]:
    name, colon, slots = part.partition(":")
    require(name in hosts, "--include, --exclude", name, f"one of {', '.join(hosts)}")
    if not colon:
        return name, set(range(hosts[name]))
    is_list = re.fullmatch(r"\d+(,\d+)*", slots) is not None
    numbers = set(map(int, slots.split(","))) if is_list else set()
    in_range = is_list and max(numbers) < hosts[name]
    require(in_range, "--include, --exclude", part, f"slots of 0 to {hosts[name] - 1}")
    return name, numbers
