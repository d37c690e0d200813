"""The conversation with all hosts, line by line."""

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ds_bert.preflight.judge import CLOCK, of_facts
from ds_bert.preflight.line import BAD, Line
from ds_bert.preflight.meeting import (
    choose_address,
    judge_address,
    judge_all_reduce,
    judge_answers,
    judge_clock,
    judge_folder,
    judge_port,
    not_tried,
)
from ds_bert.preflight.remote import Host, NoAnswer, ask_all, collect

_OTHERS = 2.0  # seconds that ranks go on after one has failed
_MEETING = ("port", "address", "one folder", "all-reduce")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to check.

    Attributes:
        slots: ranks of each host, in order; the first one keeps the meeting.
        commands: start a probe on each host.
        recipe: as the user names it, or None.
        data: folders of data sets by their settings.
        max_seq_length: which instances have to be there.
        output_dir: of the run.
        local_data: where each host copies the data to, or "".
        master_addr: where to meet; None: as DeepSpeed chooses.
        master_port: the same.
        seconds: for all of it.
    """

    slots: Mapping[str, int]
    commands: Mapping[str, list[str]]
    recipe: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    max_seq_length: int = 128
    output_dir: str = "."
    local_data: str = ""
    master_addr: str | None = None
    master_port: int = 29500
    seconds: float = 60.0


def preflight(request: Request) -> Iterator[Line]:
    """Lines as they become known; what is bad does not end it."""
    begin = time.monotonic()
    with ExitStack() as stack:
        hosts, facts, reasons = _ask_for_facts(request, stack)
        yield judge_answers(list(request.slots), reasons, time.monotonic() - begin)
        if facts:
            slots = {host: request.slots[host] for host in facts}
            yield from of_facts(facts, slots, request.data)
            yield _clock(hosts, begin + request.seconds)
        if reasons:
            why = f"needs all hosts, {next(iter(reasons))} does not answer"
            yield from (not_tried(name, why) for name in _MEETING)
        else:
            yield from _meeting(request, hosts, facts, begin + request.seconds)


def _ask_for_facts(
    request: Request, stack: ExitStack
) -> tuple[dict[str, Host], dict[str, Any], dict[str, str]]:
    hosts, reasons = dict[str, Host](), dict[str, str]()
    for name, command in request.commands.items():
        try:
            hosts[name] = Host(name, command)
            stack.callback(hosts[name].end)
        except NoAnswer as reason:
            reasons[name] = str(reason)
    facts, silent = ask_all(
        hosts,
        request.seconds / 2,
        "facts",
        recipe=request.recipe,
        data=dict(request.data),
        length=request.max_seq_length,
        output_dir=request.output_dir,
        local_data=request.local_data,
    )
    broken = {name: fact["error"] for name, fact in facts.items() if "error" in fact}
    facts = {name: fact for name, fact in facts.items() if name not in broken}
    return {name: hosts[name] for name in facts}, facts, reasons | silent | broken


def _clock(hosts: Mapping[str, Host], deadline: float) -> Line:
    if len(hosts) == 1:
        return not_tried("clock", "one host")
    try:
        return judge_clock({name: host.clock(deadline) for name, host in hosts.items()}, CLOCK)
    except NoAnswer as reason:
        return Line(BAD, "clock", str(reason))


def _meeting(
    request: Request, hosts: Mapping[str, Host], facts: Mapping[str, Any], deadline: float
) -> Iterator[Line]:
    """Port, address, folder and all-reduce: each on what the one before has found."""
    first = next(iter(hosts))
    candidates = _candidates(request, facts[first]["addresses"], len(hosts))
    listening = _ask(hosts[first], "listen", port=request.master_port)
    port = judge_port(listening, first, request.master_port)
    yield port
    address = None
    if port.state != BAD:
        asked = [address for _, address in candidates]
        reached, lost = ask_all(hosts, 15, "reach", addresses=asked, port=request.master_port)
        reached |= {name: dict.fromkeys(asked, reason) for name, reason in lost.items()}
        _ask(hosts[first], "close")
        address = choose_address(reached, candidates)
        yield judge_address(reached, candidates, first, request.master_port)
    else:
        yield not_tried("address", "the port is not free")
    yield _one_folder(request, hosts, first)
    if address is None:
        yield not_tried("all-reduce", "the ranks could not meet")
    else:
        yield _all_reduce(request, hosts, address, max(5.0, deadline - time.monotonic()))


def _candidates(request: Request, addresses: list[list[str]], num_hosts: int) -> list[list[str]]:
    """Interfaces and addresses to meet at, the one that would be taken first."""
    if num_hosts == 1:
        addresses = [["lo", "127.0.0.1"]]
    given = request.master_addr
    if given is None:
        return addresses
    interface = next((name for name, address in addresses if address == given), "?")
    return [[interface, given], *(found for found in addresses if found[1] != given)]


def _ask(host: Host, question: str, **arguments: Any) -> dict[str, Any]:
    answers, reasons = ask_all({host.name: host}, 15, question, **arguments)
    return answers.get(host.name, {"error": reasons.get(host.name), "free": 0})


def _one_folder(request: Request, hosts: Mapping[str, Host], first: str) -> Line:
    if len(hosts) == 1:
        return not_tried("one folder", "one host")
    about = {"folder": request.output_dir, "name": f".preflight.{secrets.token_hex(8)}"}
    planted = _ask(hosts[first], "plant", **about)
    sees, lost = ask_all(hosts, 15, "sees", **about)
    _ask(hosts[first], "uproot", **about)
    return judge_folder(request.output_dir, planted, sees | {name: {} for name in lost})


def _all_reduce(request: Request, hosts: Mapping[str, Host], address: str, seconds: float) -> Line:
    world_size = sum(request.slots.values())
    if world_size == 1:
        return not_tried("all-reduce", "one rank")
    environment = {k: v for k, v in os.environ.items() if k.startswith(("NCCL_", "GLOO_"))}
    first = 0
    for name, host in hosts.items():
        host.ask(
            "start_ranks",
            first=first,
            slots=request.slots[name],
            world_size=world_size,
            address=address,
            port=request.master_port,
            seconds=seconds - 2,
            environment=environment,
        )
        first += request.slots[name]
    deadline = time.monotonic() + seconds
    collect(hosts, deadline)
    _wait_for_ranks(hosts, deadline)
    ranks, reasons = ask_all(hosts, 15, "end_ranks")
    return judge_all_reduce(ranks, reasons, f"{address}:{request.master_port}", seconds - 2)


def _wait_for_ranks(hosts: Mapping[str, Host], deadline: float) -> None:
    """Until all ranks have ended; not much longer than one that fails, or than the deadline."""
    while time.monotonic() < deadline:
        told, lost = ask_all(hosts, 15, "look_at_ranks")
        if lost or all(found["ended"] for found in told.values()):
            return
        if any(found["failed"] for found in told.values()):
            deadline = min(deadline, time.monotonic() + _OTHERS)
        time.sleep(0.1)
