"""From what hosts say of each other to lines: clocks, addresses, folders, the all-reduce."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from tqdm import tqdm

from ds_bert.preflight.compare import names
from ds_bert.preflight.line import BAD, OK, SKIP, Line, by_faults

STAGES = ("none", "started", "came", "met", "done")  # of a rank, in order
# What a rank that came no farther than a stage did not do, and where it was if it failed.
_DID_NOT = {
    "none": "did not start",
    "started": "did not come to {address}",
    "came": "came to {address}, but did not get through to the others",
    "met": "met the others, but was not done",
}
_WHERE = {
    "none": "at its start",
    "started": "on its way to {address}",
    "came": "on its way to the others",
    "met": "in the all-reduce",
    "done": "at its end",
}


def judge_answers(hosts: Sequence[str], reasons: Mapping[str, str], seconds: float) -> Line:
    """Who answered at all."""
    faults = {host: reasons.get(host, "") for host in hosts}
    good = f"{len(hosts)} answered within {seconds:.1f} s"
    return by_faults("reachable", faults, good, "mend that, or leave the host out (--exclude)")


def judge_clock(clocks: Mapping[str, tuple[float, float]], limit: float) -> Line:
    """Clocks against their median; of two hosts, against that of the first.

    Args:
        clocks: seconds ahead of this machine, and how far off that may be, by host.
        limit: seconds that do not matter.
    """
    aheads = [ahead for ahead, _ in clocks.values()]
    middle = median(aheads) if len(aheads) > 2 else aheads[0]
    off = {host: ahead - middle for host, (ahead, _) in clocks.items()}
    faults = {
        host: f"{abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}"
        for host, seconds in off.items()
        if abs(seconds) - clocks[host][1] > limit
    }
    widest = max(off.values()) - min(off.values())
    unsure = max(error for _, error in clocks.values())
    good = f"all within {widest * 1e3:.2f} ms (known to {unsure * 1e3:.2f} ms)"
    return by_faults("clock", faults, good, "set it by NTP, such as chronyc makestep")


def choose_address(
    reached: Mapping[str, Mapping[str, str | None]], candidates: Sequence[Sequence[str]]
) -> str | None:
    """The first address, in DeepSpeed's order, that all hosts reach."""
    good = (
        address
        for _, address in candidates
        if all(found.get(address, "") is None for found in reached.values())
    )
    return next(good, None)


def judge_address(
    reached: Mapping[str, Mapping[str, str | None]],
    candidates: Sequence[Sequence[str]],
    first: str,
    port: int,
) -> Line:
    """Whether all reach the address that DeepSpeed would choose.

    Args:
        reached: by host, for each address None or why it is not reached.
        candidates: interfaces and addresses of the first host, the one to be taken first.
        first: name of the first host.
        port: of the meeting.
    """
    if not candidates:
        return Line(BAD, "address", f"{first}: has no address but its own; connect it")
    interface, address = candidates[0]
    where = f"{address} ({interface} of {first})"
    faults = {h: f"does not reach {where}: {r[address]}" for h, r in reached.items() if r[address]}
    other = choose_address(reached, candidates)
    advice = "look for a firewall, or another network"
    if other is not None:
        name = next(name for name, found in candidates if found == other)
        advice = f"all reach {other} ({name}): start with --master_addr {other}"
    return by_faults("address", faults, f"{where} port {port}, reached by all", advice)


def judge_port(answer: Mapping[str, Any], first: str, port: int) -> Line:
    """Whether the port of the meeting is free on the first host."""
    if "error" not in answer:
        return Line(OK, "port", f"{port} is free on {first}")
    free = answer["free"]
    advice = f"--master_port {free} is free" if free else "choose another --master_port"
    return Line(BAD, "port", f"{first}: {port}: {answer['error']}; {advice}")


def judge_folder(folder: str, planted: Mapping[str, Any], sees: Mapping[str, Any]) -> Line:
    """Whether all hosts see one output_dir, by a file that the first one has written."""
    if "error" in planted:
        return Line(BAD, "one folder", f"{planted['error']}; choose another output_dir")
    faults = {
        host: "" if answer.get("sees") else f"does not see what the first host writes to {folder}"
        for host, answer in sees.items()
    }
    advice = "put output_dir on a disk that all hosts share"
    return by_faults("one folder", faults, f"all see the same {folder}", advice)


def judge_all_reduce(
    ranks: Mapping[str, Sequence[Mapping[str, Any]]],
    reasons: Mapping[str, str],
    address: str,
    seconds: float,
) -> Line:
    """Whether all ranks met and added up, and how fast.

    Args:
        ranks: how far those of each host came (`ds_bert.preflight.ranks`).
        reasons: of hosts that have gone meanwhile.
        address: where they met.
        seconds: that they had.
    """
    if reasons:
        return by_faults("all-reduce", reasons, "", "look at that host")
    told = [rank for host in ranks.values() for rank in host]
    last = min((rank["stage"] for rank in told), key=STAGES.index)
    if last == "done" and not any("error" in rank for rank in told):
        return Line(OK, "all-reduce", _figures(told, address))
    behind = [r for r in told if r["stage"] == last and (last != "done" or "error" in r)]
    # Others only wait for a rank that says why it failed.
    guilty = [rank for rank in behind if rank.get("error")] or behind
    faults = {
        host: _fault([rank for rank in found if rank in guilty], last, address, seconds)
        for host, found in ranks.items()
    }
    return by_faults("all-reduce", faults, "", "look for a firewall, and at its network interface")


def _fault(ranks: Sequence[Mapping[str, Any]], last: str, address: str, seconds: float) -> str:
    if not ranks:
        return ""
    which = f"rank {names([str(rank['rank']) for rank in ranks])}"
    if error := ranks[0].get("error"):
        return f"{which} failed {_WHERE[last].format(address=address)}: {error}"
    what = _DID_NOT.get(last, "was not done").format(address=address)
    return f"{which} {what} within {seconds:.0f} s"


def _figures(told: Sequence[Mapping[str, Any]], address: str) -> str:
    slowest = min(told, key=lambda rank: rank["bandwidth"])
    size, rate = (tqdm.format_sizeof(slowest[name]) for name in ("bytes", "bandwidth"))
    return (
        f"{len(told)} ranks by {slowest['backend']} at {address}: {size}B in "
        f"{slowest['seconds']:.3f} s, bus bandwidth {rate}B/s"
    )


def not_tried(name: str, why: str) -> Line:
    """A check that another one's outcome has made pointless."""
    return Line(SKIP, name, why)
