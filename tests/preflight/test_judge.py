"""Facts of three hosts with GPUs: green, and each planted fault has its line."""

import copy

import pytest

from ds_bert.preflight.judge import of_facts
from ds_bert.preflight.line import BAD, OK, SKIP, WARN, Line

GPU = {
    "name": "H100",
    "driver": "580.1",
    "memory_total": 81559,
    "memory_used": 4,
    "processes": [],
    "faults": [],
}
DISK = {"folder": "runs/x", "is_writable": True, "free": 5e11, "free_inodes": 10**7}
HOST = {
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "deepspeed": "0.19.8"},
    "ds_bert": "0.1.0, sources 12ab",
    "commit": "0123456789abcdef",
    "recipe": "c0ffee" * 4,
    "data": {"train_data": "f00d" * 8},
    "output_dir": DISK,
    "cache": dict(DISK),
    "shared_memory": 64 << 30,
    "open_files": 65536,
    "gpus": {"gpus": [{**GPU, "index": index} for index in range(2)], "xid": []},
}
HOSTS = ("host5", "host6", "host7")


def judge(change=None, slots=2) -> list[Line]:
    """Lines where the facts of host7 were changed by a function of them."""
    facts = {name: copy.deepcopy(HOST) for name in HOSTS}
    if change is not None:
        change(facts["host7"])
    return list(of_facts(facts, dict.fromkeys(HOSTS, slots), {"train_data": "data/train"}))


def put(*path_and_value):
    """A function that sets one fact: keys on the way to it, and its value."""
    *path, last, value = path_and_value

    def change(facts):
        for key in path:
            facts = facts[key]
        facts[last] = value

    return change


def test_green():
    lines = judge()
    assert {line.state for line in lines} == {OK}
    assert len(lines) == 12
    assert str(lines[0]) == "ok   slots           6 ranks on 3 hosts"


FAULTS = {
    "another torch": (
        put("packages", "torch", "2.10.0"),
        "BAD  versions       host7: torch 2.10.0, others 2.13.0; install the same there: pip "
        "install -c constraints.txt -e .",
    ),
    "another Python": (put("python", "3.12.1"), "host7: Python 3.12, others 3.11; install"),
    "another ds_bert": (
        put("ds_bert", "0.1.0, sources 99ff"),
        "BAD  ds_bert        host7: 0.1.0, sources 99ff, others 0.1.0, sources 12ab; check out or",
    ),
    "another recipe": (
        put("recipe", "bad0" * 6),
        "BAD  recipe         host7: hash bad0bad0bad0bad0, others c0ffeec0ffeec0ff; copy the same",
    ),
    "no recipe": (put("recipe", {"error": "no such file"}), "BAD  recipe         host7: no such"),
    "other data": (
        put("data", "train_data", "0bad" * 8),
        "BAD  train_data     host7: fingerprint 0bad0bad0bad0bad, others f00df00df00df00d; copy",
    ),
    "damaged data": (
        put("data", "train_data", {"error": "tokens.npy has 3 bytes, expected 4"}),
        "BAD  train_data     host7: tokens.npy has 3 bytes, expected 4",
    ),
    "disk full": (
        put("output_dir", "free", 2e8),
        "BAD  output_dir disk host7: 200MB free on the disk of runs/x; make room",
    ),
    "no inodes": (put("output_dir", "free_inodes", 7), "host7: 7 inodes free on the disk of"),
    "read-only disk": (put("output_dir", "is_writable", False), "host7: runs/x cannot be written"),
    "cache full": (put("cache", "free", 5e7), "BAD  cache disk     host7: 50.0MB free"),
    "docker's shared memory": (
        put("shared_memory", 64 << 20),
        "BAD  shared memory  host7: 67.1MB free, 268MB needed; docker run --ipc=host",
    ),
    "few open files": (
        put("open_files", 256),
        "BAD  open files     host7: 256 open files allowed, 280 needed; raise ulimit -n there",
    ),
    "a GPU is missing": (
        lambda facts: facts["gpus"]["gpus"].pop(),
        "BAD  slots          host7: 2 slots, 1 GPUs; lower slots=, or look for the GPUs",
    ),
    "no GPUs": (put("gpus", None), "BAD  gpus           host7: no nvidia-smi; look"),
    "nvidia-smi hangs": (
        put("gpus", {"error": "nvidia-smi did not answer within 15 s"}),
        "BAD  gpus           host7: nvidia-smi did not answer within 15 s",
    ),
    "a busy GPU": (
        lambda facts: facts["gpus"]["gpus"][1].update(memory_used=9000, processes=["python (77)"]),
        "BAD  gpus idle      host7: GPU 1 has 9,000 MiB in use by python (77); end what runs",
    ),
    "memory errors": (
        lambda facts: facts["gpus"]["gpus"][0].update(faults=["3 uncorrected ECC errors"]),
        "BAD  gpus healthy   host7: GPU 0: 3 uncorrected ECC errors; leave that host out",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_has_its_line_and_no_other(fault):
    change, expected = FAULTS[fault]
    bad = [str(line) for line in judge(change) if line.state == BAD]
    assert len(bad) == 1
    assert " ".join(expected.split()) in " ".join(bad[0].split())
    assert "host5" not in bad[0] and "host6" not in bad[0]


def test_what_a_run_can_live_with_is_told():
    def other_driver(facts):
        for gpu in facts["gpus"]["gpus"]:
            gpu["driver"] = "550.2"

    found = [line for line in judge(other_driver) if line.state != OK]
    text = "host7: H100 (driver 550.2), others H100 (driver 580.1); the slowest sets the pace"
    assert found == [Line(WARN, "gpus", text)]
    found = [x for x in judge(put("gpus", "xid", ["Xid 79 of 0000:3b:00", "Xid 31 of 0000:3b:00"]))]
    (line,) = [line for line in found if line.state != OK]
    assert line.state == WARN
    assert line.text.startswith("host7: Xid 79 of 0000:3b:00 in"), "31 is a program's own"


def test_a_log_that_may_not_be_read_is_told():
    text = "no uncorrected errors (the kernel's log may not be read)"
    assert judge(put("gpus", "xid", None))[-1] == Line(OK, "gpus healthy", text)


def test_without_gpus_there_is_nothing_to_ask():
    facts = {"a": {**copy.deepcopy(HOST), "gpus": None, "shared_memory": 32 << 20}}
    lines = list(of_facts(facts, {"a": 2}, {}))
    assert {line.name: line.state for line in lines if line.state != OK} == {
        "gpus": SKIP,
        "gpus idle": SKIP,
        "gpus healthy": SKIP,
    }


def test_unequal_slots():
    facts = {name: copy.deepcopy(HOST) for name in HOSTS}
    line = next(of_facts(facts, {"host5": 2, "host6": 2, "host7": 1}, {}))
    assert str(line).startswith("BAD  slots           host7: slots=1, others 2; give all hosts")


def test_in_a_tie_the_first_host_is_right():
    facts = {"a": copy.deepcopy(HOST), "b": {**HOST, "packages": {"torch": "2", "deepspeed": "1"}}}
    line = next(x for x in of_facts(facts, {"a": 2, "b": 2}, {}) if x.name == "versions")
    assert line.text.startswith("b: torch 2, a 2.13.0; b: deepspeed 1, a 0.19.8; install")
