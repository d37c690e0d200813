"""What preflight says of faults that are planted on one of two hosts, and how long it takes.

python benchmarks/preflight.py > table.md

Needs root: the hosts are network namespaces with an ssh server each (tests/two_hosts.py).
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import two_hosts
from data_util import make_store, synthetic_text
from training_util import write_recipe

VOCABULARY = ROOT / "tests/golden/vocab/uncased_vocab.txt"
Fault = AbstractContextManager[None]


def prepare(place: Path) -> None:
    """Two data sets, a recipe and hostfiles."""
    for name, seed in (("data", 0), ("other", 1)):
        (place / f"{name}.txt").write_text(synthetic_text(10, seed))
        make_store(place / name, place / f"{name}.txt", VOCABULARY)
    section = {"max_seq_length": 128, "output_dir": "runs", "validation_data": ""}
    write_recipe(place, place / "data", section=section)
    (place / "runs").mkdir()
    for name, slots in (("hosts", "22"), ("unequal", "21"), ("three", "222")):
        lines = (f"node{host} slots={number}\n" for host, number in zip("abc", slots, strict=False))
        (place / name).write_text("".join(lines))


@contextmanager
def interface_of_one(pair: two_hosts.TwoHosts) -> Iterator[None]:
    """Ranks are told to use an interface that nodea alone has."""
    os.environ["GLOO_SOCKET_IFNAME"] = "docker0"
    try:
        with pair.other_network():
            yield
    finally:
        del os.environ["GLOO_SOCKET_IFNAME"]


def faults(pair: two_hosts.TwoHosts, place: Path) -> Iterator[tuple[str, Fault, str]]:
    """What is planted, how, and the hostfile."""
    path = Path(str(distribution("transformers")._path), "METADATA")
    version = re.sub("(?m)^Version: .*$", "Version: 5.1.0", path.read_text(), count=1)
    errors, recipe = ROOT / "ds_bert/errors.py", place / "recipe.json"
    tmpfs = ("-t", "tmpfs", "-o", "size=4m", "none")
    yield "none", nullcontext(), "hosts"
    yield "another transformers", pair.replaced(path, version), "hosts"
    yield "a source edited", pair.replaced(errors, errors.read_text() + "\n# edited\n"), "hosts"
    yield "another recipe", pair.replaced(recipe, recipe.read_text() + "\n"), "hosts"
    yield "other data", pair.mounted("--bind", place / "other", place / "data"), "hosts"
    yield "data that is not there", pair.mounted(*tmpfs, place / "data"), "hosts"
    yield "a small disk of its own", pair.mounted(*tmpfs, place / "runs"), "hosts"
    yield "little shared memory", pair.mounted(*tmpfs, "/dev/shm"), "hosts"
    yield "few open files", pair.few_open_files(), "hosts"
    yield "unequal slots", nullcontext(), "unequal"
    yield "a host that is not there", nullcontext(), "three"
    yield "folder not there", pair.mounted(*tmpfs, place.parent), "hosts"
    yield "port in use", pair.port_in_use(29500), "hosts"
    yield "docker's network first", pair.other_network(), "hosts"
    address = "hosts --master_addr 10.77.0.1"
    yield "GLOO_SOCKET_IFNAME that is not there", interface_of_one(pair), address


def main() -> None:
    """Print a table: fault, lines that are BAD, seconds."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        place = Path(first, "work")
        place.mkdir()
        prepare(place)
        print("| planted | lines | seconds |\n|---|---|---:|")
        with two_hosts.TwoHosts(Path(second)) as pair:
            for name, fault, hostfile in faults(pair, place):
                with fault:
                    begin = time.monotonic()
                    command = [sys.executable, str(ROOT / "scripts/preflight.py")]
                    command += ["--ds_config", "recipe.json", "--hostfile", *hostfile.split()]
                    result = pair.run(command, cwd=place)
                    seconds = time.monotonic() - begin
                if name == "none":
                    print(result.stdout, result.stderr, file=sys.stderr)
                bad = re.findall("^BAD.*$", result.stdout, re.M)
                lines = "<br>".join(f"``{' '.join(line.split())}``" for line in bad)
                lines = lines.replace(str(place), "WORK")
                assert result.returncode == 2 * bool(bad)
                print(f"| {name} | {lines} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
