"""What ranks do for their host at the start of each run.

What a preflight would say of it, as far as that costs nothing and is looked at nowhere else:
versions, sources and data are compared by `agreement`, the one folder by `lock`, room for
checkpoints by the plan. Warnings, no refusal: the run will tell by itself whether it can do with
less.
"""

import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from ds_bert import distributed, files, launcher
from ds_bert.preflight.facts import disk, limits
from ds_bert.preflight.judge import (
    CACHE_ROOM,
    CLOCK,
    judge_disk,
    judge_open_files,
    judge_shared_memory,
)
from ds_bert.preflight.line import BAD
from ds_bert.preflight.meeting import judge_clock

_TOGETHER = 1.0  # seconds within which ranks leave a barrier


def once_per_host(function: Callable[[], Any]) -> Any:
    """A function's small result on the first rank of each host, for all ranks there."""
    host = socket.gethostname()
    mine = [function()] if launcher.is_first_of_host() else []
    results = dict(found for found in distributed.gather((host, mine)) if found[1])
    return results[host][0] if host in results else function()


def warn_about_hosts() -> None:
    """Tell, once, which hosts lack something; called by all ranks, and free for one alone."""
    if not distributed.is_distributed():
        return
    for line in lines():
        distributed.log(f"warning: {line}")


def lines() -> list[str]:
    """What is bad, one check a line; the same on all ranks."""
    cache, gpus = files.cache_folder(), torch.cuda.is_available() or None
    distributed.barrier()  # after which all look at their clocks
    mine = {"clock": time.time(), "cache": disk(cache), "gpus": gpus, **limits()}
    everyone = distributed.gather((socket.gethostname(), mine))
    slots = Counter(host for host, _ in everyone)  # in the order of ranks
    facts = dict(reversed(everyone))  # of the first rank of each
    hosts = {host: facts[host] for host in slots}
    clocks = {host: (told["clock"], _TOGETHER) for host, told in hosts.items()}
    found = (
        judge_shared_memory(hosts, slots),
        judge_open_files(hosts, len(everyone)),
        judge_disk(hosts, "cache", CACHE_ROOM),
        judge_clock(clocks, CLOCK),
    )
    return [f"{line.name}: {line.text}" for line in found if line.state == BAD]
