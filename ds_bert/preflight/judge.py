"""From the facts of all hosts to lines: what is the same everywhere, what is large enough.

Each function takes the facts by host (`ds_bert.preflight.facts`) and gives one line.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from ds_bert.preflight.compare import names
from ds_bert.preflight.line import BAD, OK, SKIP, WARN, Line, by_faults, difference

Facts = Mapping[str, Mapping[str, Any]]

CLOCK = 2.0  # seconds; the age of a lock and of an answer is told by clocks
# Room without which a start is pointless; the run itself computes what its checkpoints need.
OUTPUT_ROOM, CACHE_ROOM, INODES = 1e9, 1e8, 1000
SHARED_PER_RANK = {True: 128 << 20, False: 8 << 20}  # bytes, with GPUs (NCCL) and without
MEMORY_IN_USE = 1024  # MiB of a GPU that idles; contexts of a display take less
# Errors of hardware; others are mostly a program's own. Source: NVIDIA, "XID errors".
_HARDWARE_XID = {48, 63, 64, 74, 79, 92, 94, 95, 119, 120, 140}


def of_facts(facts: Facts, slots: Mapping[str, int], data: Mapping[str, str]) -> Iterator[Line]:
    """The lines of all that needs no conversation between hosts."""
    yield judge_slots(facts, slots)
    yield judge_versions(facts)
    yield judge_sources(facts)
    yield judge_recipe(facts)
    yield from (judge_data(facts, name, folder) for name, folder in data.items())
    yield judge_disk(facts, "output_dir", OUTPUT_ROOM)
    yield judge_disk(facts, "cache", CACHE_ROOM)
    yield judge_shared_memory(facts, slots)
    yield judge_open_files(facts, sum(slots.values()))
    yield from (check(facts) for check in (judge_gpus, judge_idle, judge_health))


def judge_slots(facts: Facts, slots: Mapping[str, int]) -> Line:
    """Equal, and not more than GPUs: local ranks are numbered wrongly otherwise."""
    unequal = difference(slots, "slots=")
    if unequal:
        return Line(BAD, "slots", f"{unequal}; give all hosts of the hostfile the same number")
    faults = {host: _too_few_gpus(facts[host], slots[host]) for host in facts}
    number = sum(slots.values())
    good = f"{number} ranks on {len(slots)} {'hosts' if len(slots) > 1 else 'host'}"
    return by_faults("slots", faults, good, "lower slots=, or look for the GPUs that are missing")


def _too_few_gpus(facts: Mapping[str, Any], slots: int) -> str:
    found = facts["gpus"]
    there = len(found.get("gpus", ())) if found else 0
    return f"{slots} slots, {there} GPUs" if 0 < there < slots else ""


def judge_versions(facts: Facts) -> Line:
    """Python, to its second number, and the packages that a result depends on."""
    pythons = {host: ".".join(fact["python"].split(".")[:2]) for host, fact in facts.items()}
    found = [difference(pythons, "Python ")]
    first = next(iter(facts.values()))["packages"]
    for name in first:
        versions = {host: fact["packages"].get(name) for host, fact in facts.items()}
        found.append(difference(versions, f"{name} "))
    missing = [name for name, version in first.items() if version == "none"]
    if any(found):
        text = "; ".join(filter(None, found))
        advice = "install the same there: pip install -c constraints.txt -e ."
        return Line(BAD, "versions", f"{text}; {advice}")
    if missing:
        text = f"{', '.join(missing)} not installed anywhere; pip install ds_bert's requirements"
        return Line(BAD, "versions", text)
    python = next(iter(pythons.values()))
    good = ", ".join(f"{name} {version}" for name, version in first.items())
    return Line(OK, "versions", f"Python {python}, {good}")


def judge_sources(facts: Facts) -> Line:
    """The same ds_bert, by its contents; commits are told."""
    found = difference({host: fact["ds_bert"] for host, fact in facts.items()})
    commits = {host: (fact["commit"] or "none")[:12] for host, fact in facts.items()}
    if found:
        told = difference(commits, "commit ")
        told = f" ({told})" if told else ""
        return Line(BAD, "ds_bert", f"{found}{told}; check out or install the same there")
    first = next(iter(facts.values()))
    commit = f", commit {first['commit']}" if first["commit"] else ""
    return Line(OK, "ds_bert", f"{first['ds_bert']}{commit}")


def judge_recipe(facts: Facts) -> Line:
    """The same bytes everywhere."""
    values = {host: fact["recipe"] for host, fact in facts.items()}
    if not any(values.values()):
        return Line(SKIP, "recipe", "no --ds_config given")
    return _same_or_error("recipe", values, "hash ", "copy the same recipe there")


def judge_data(facts: Facts, name: str, folder: str) -> Line:
    """The same fingerprint, all files with their sizes, instances of the length."""
    values = {host: fact["data"].get(name) for host, fact in facts.items()}
    line = _same_or_error(name, values, "fingerprint ", f"copy the same data set to {folder}")
    return Line(line.state, name, f"{folder}: {line.text}") if line.state == OK else line


def _same_or_error(name: str, values: Mapping[str, Any], what: str, advice: str) -> Line:
    errors = {h: v["error"] if isinstance(v, dict) else "" for h, v in values.items()}
    if any(errors.values()):
        return by_faults(name, errors, "", "it has to be on every host")
    short = {host: value[:16] for host, value in values.items()}
    found = difference(short, what)
    if found:
        return Line(BAD, name, f"{found}; {advice}")
    return Line(OK, name, f"{what}{next(iter(short.values()))}")


def judge_disk(facts: Facts, name: str, room: float) -> Line:
    """Writable, with room: of the run, and of what is compiled and kept."""
    faults = {host: _disk_fault(fact[name], name, room) for host, fact in facts.items()}
    frees = [fact[name].get("free", 0) for fact in facts.values()]
    good = f"{_bytes(min(frees))} free at least"
    return by_faults(f"{name} disk", faults, good, "make room, or choose another folder")


def _disk_fault(disk: Mapping[str, Any], name: str, room: float) -> str:
    if "error" in disk:
        return disk["error"]
    if name == "output_dir" and not disk["is_writable"]:  # a cache can be done without
        return f"{disk['folder']} cannot be written"
    if disk["free"] < room:
        return f"{_bytes(disk['free'])} free on the disk of {disk['folder']}"
    inodes = disk["free_inodes"]
    few = inodes is not None and inodes < INODES
    return f"{inodes} inodes free on the disk of {disk['folder']}" if few else ""


def judge_shared_memory(facts: Facts, slots: Mapping[str, int]) -> Line:
    """For NCCL and the workers; containers come with 64 MB."""
    faults = {host: _shared_fault(fact, slots[host]) for host, fact in facts.items()}
    rooms = [fact["shared_memory"] or 0 for fact in facts.values()]
    good = f"{_bytes(min(rooms))} free at least"
    advice = "docker run --ipc=host or --shm-size, in Kubernetes an emptyDir of medium Memory"
    return by_faults("shared memory", faults, good, advice)


def _shared_fault(facts: Mapping[str, Any], slots: int) -> str:
    free = facts["shared_memory"]
    if free is None:
        return "none"
    need = SHARED_PER_RANK[bool(facts["gpus"])] * slots
    return f"{_bytes(free)} free, {_bytes(need)} needed" if free < need else ""


def judge_open_files(facts: Facts, num_ranks: int) -> Line:
    """Each rank holds connections to others; the first one to all."""
    need = 256 + 4 * num_ranks
    found = {host: fact["open_files"] for host, fact in facts.items()}
    faults = {h: f"{n} open files allowed, {need} needed" * (n < need) for h, n in found.items()}
    good = f"{min(found.values()):,} allowed at least"
    return by_faults("open files", faults, good, "raise ulimit -n there")


def judge_gpus(facts: Facts) -> Line:
    """Everywhere or nowhere; other names and drivers are told."""
    found = {host: fact["gpus"] for host, fact in facts.items()}
    if not any(found.values()):
        return Line(SKIP, "gpus", "no nvidia-smi: ranks on CPU")
    errors = {h: (g or {"error": "no nvidia-smi"}).get("error", "") for h, g in found.items()}
    errors |= {h: "none visible" for h, g in found.items() if g and g.get("gpus") == []}
    if any(errors.values()):
        return by_faults("gpus", errors, "", "look at nvidia-smi there")
    kinds = {h: ", ".join(sorted(_kinds(g["gpus"]))) for h, g in found.items() if g}
    number = difference({h: len(g["gpus"]) for h, g in found.items() if g}, "number ")
    differs = "; ".join(filter(None, (difference(kinds), number)))
    if differs:
        return Line(WARN, "gpus", f"{differs}; the slowest sets the pace")
    count = sum(len(g["gpus"]) for g in found.values() if g)
    return Line(OK, "gpus", f"{count} x {next(iter(kinds.values()))}")


def _kinds(gpus: list[dict[str, Any]]) -> set[str]:
    return {f"{gpu['name']} (driver {gpu['driver']})" for gpu in gpus}


def judge_idle(facts: Facts) -> Line:
    """Nobody else's processes, no memory in use."""
    busy = {host: "; ".join(filter(None, map(_use, _gpus(fact)))) for host, fact in facts.items()}
    if not any(_gpus(fact) for fact in facts.values()):
        return Line(SKIP, "gpus idle", "no GPUs to ask")
    return by_faults("gpus idle", busy, "no processes, memory free", "end what runs there, or wait")


def _use(gpu: Mapping[str, Any]) -> str:
    used, who = gpu["memory_used"], names(gpu["processes"])
    if not who and used <= MEMORY_IN_USE:
        return ""
    return f"GPU {gpu['index']} has {used:,} MiB in use" + (f" by {who}" if who else "")


def judge_health(facts: Facts) -> Line:
    """Errors of memory that nvidia-smi counts; errors in the kernel's log are told."""
    if not any(_gpus(fact) for fact in facts.values()):
        return Line(SKIP, "gpus healthy", "no GPUs to ask")
    bad = {host: "; ".join(_faults(fact)) for host, fact in facts.items()}
    line = by_faults("gpus healthy", bad, "no uncorrected errors", "leave that host out")
    xid = {host: names(_hardware(fact)) for host, fact in facts.items() if _hardware(fact)}
    if line.state == OK and xid:
        told = "; ".join(f"{host}: {text}" for host, text in xid.items())
        return Line(WARN, "gpus healthy", f"{told} in the kernel's log; look at that host")
    if line.state == OK and any(_is_log_closed(fact) for fact in facts.values()):
        return Line(OK, line.name, f"{line.text} (the kernel's log may not be read)")
    return line


def _gpus(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    return (facts["gpus"] or {}).get("gpus", [])


def _faults(facts: Mapping[str, Any]) -> list[str]:
    return [f"GPU {gpu['index']}: {fault}" for gpu in _gpus(facts) for fault in gpu["faults"]]


def _is_log_closed(facts: Mapping[str, Any]) -> bool:
    return (facts["gpus"] or {}).get("xid", ()) is None


def _hardware(facts: Mapping[str, Any]) -> list[str]:
    found = (facts["gpus"] or {}).get("xid") or []
    return sorted({text for text in found if int(text.split()[1]) in _HARDWARE_XID})


def _bytes(number: float) -> str:
    return f"{tqdm.format_sizeof(number)}B"
