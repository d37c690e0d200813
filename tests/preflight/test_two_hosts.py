"""The command on two hosts of its own (network namespaces with an ssh server each)."""

import re
import sys
from contextlib import ExitStack
from importlib.metadata import distribution
from pathlib import Path

import pytest
import two_hosts
from conftest import ROOT
from data_util import make_store, synthetic_text
from training_util import write_recipe

pytestmark = pytest.mark.skipif(bool(two_hosts.missing()), reason=two_hosts.missing() or "-")
METADATA = Path(
    str(distribution("transformers")._path), "METADATA"
)  # which only nodeb sees changed


@pytest.fixture(scope="module")
def place(tmp_path_factory, vocab_file):
    """A folder with hostfile, data and recipe."""
    folder = tmp_path_factory.mktemp("hosts") / "work"
    folder.mkdir()
    (folder / "text.txt").write_text(synthetic_text(10))
    make_store(folder / "data", folder / "text.txt", vocab_file)
    (folder / "other.txt").write_text(synthetic_text(10, seed=1))
    make_store(folder / "other", folder / "other.txt", vocab_file)
    section = {"max_seq_length": 128, "output_dir": "runs"}
    write_recipe(folder, folder / "data", section=section)
    (folder / "hosts").write_text("nodea slots=1\nnodeb slots=1\n")
    (folder / "runs").mkdir()
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssh")
    folder.chmod(0o700)
    with two_hosts.TwoHosts(folder) as pair:
        yield pair


def preflight(pair, place, *flags, hostfile="hosts"):
    """Exit code, and the lines by their names."""
    command = [sys.executable, str(ROOT / "scripts/preflight.py"), "--hostfile", hostfile]
    command += ["--ds_config", "recipe.json", *flags]
    result = pair.run(command, cwd=place)
    assert not result.stderr, result.stderr
    print(result.stdout)
    lines = re.findall(r"^(ok|warn|BAD|skip) +(.{15}) (.*)$", result.stdout, re.M)
    return result.returncode, {name.strip(): (state, text) for state, name, text in lines}


def bad(lines):
    return {name: text for name, (state, text) in lines.items() if state == "BAD"}


def test_green(pair, place):
    code, lines = preflight(pair, place)
    assert not bad(lines) and code == 0
    skipped = {name for name, (state, _) in lines.items() if state == "skip"}
    assert skipped == {"gpus", "gpus idle", "gpus healthy"}
    assert lines["address"][1] == "10.77.0.1 (cable of nodea) port 29500, reached by all"
    assert re.match(r"2 ranks by gloo at 10.77.0.1:29500: .*B/s$", lines["all-reduce"][1])
    assert not list(place.glob("**/.preflight*")), "nothing is left behind"


def plant(pair, place, stack):
    """Seven faults of nodeb."""
    other_version = re.sub("(?m)^Version: .*$", "Version: 5.1.0", METADATA.read_text(), count=1)
    errors = ROOT / "ds_bert/errors.py"
    for fault in (
        pair.replaced(METADATA, other_version),
        pair.replaced(errors, errors.read_text() + "\n# edited\n"),
        pair.replaced(place / "recipe.json", (place / "recipe.json").read_text() + "\n"),
        pair.mounted("--bind", place / "other", place / "data"),
        pair.mounted("-t", "tmpfs", "-o", "size=1m", "none", place / "runs"),
        pair.mounted("-t", "tmpfs", "-o", "size=1m", "none", "/dev/shm"),
        pair.few_open_files(),
    ):
        stack.enter_context(fault)


def test_seven_faults_of_a_host_at_once(pair, place):
    with ExitStack() as stack:
        plant(pair, place, stack)
        stack.enter_context(pair.port_in_use(29500))
        code, lines = preflight(pair, place)
    found = bad(lines)
    assert code == 2
    assert found["versions"].startswith("nodeb: transformers 5.1.0, nodea ")
    assert found["ds_bert"].startswith("nodeb: ")
    assert found["recipe"].startswith("nodeb: hash ")
    assert found["train_data"].startswith("nodeb: fingerprint ")
    assert found["output_dir disk"].startswith("nodeb: 1.05MB free on the disk of runs; make room")
    assert found["shared memory"].startswith("nodeb: 1.05MB free, ")
    assert found["open files"].startswith("nodeb: 100 open files allowed, 264 needed; ")
    assert found["one folder"].startswith("nodeb: does not see what the first host writes to runs")
    assert found["port"].startswith("nodea: 29500: Address already in use; --master_port 29501 is")
    assert len(found) == 10
    assert lines["all-reduce"] == ("skip", "the ranks could not meet")


def test_an_address_that_the_other_host_cannot_reach(pair, place):
    with pair.other_network():
        code, lines = preflight(pair, place)
    (text,) = bad(lines).values()
    assert code == 2
    assert text.startswith("nodeb: does not reach 172.17.0.1 (docker0 of nodea): ")
    assert text.endswith("all reach 10.77.0.1 (cable): start with --master_addr 10.77.0.1")
    assert lines["all-reduce"][0] == "ok", "at the address that all reach"


def test_hosts_that_do_not_answer(pair, place):
    (place / "more").write_text("nodea slots=1\nnodeb slots=1\nnodec slots=1\n")
    with pair.mounted("-t", "tmpfs", "none", place.parent):
        code, lines = preflight(pair, place, hostfile="more")
    assert code == 2
    assert list(bad(lines)) == ["batch", "reachable"]
    text = lines["reachable"][1]
    assert re.search("nodeb: [^;]*No such file or directory; folder, Python and ds_bert have", text)
    assert re.search("nodec: ssh: [^;]*; `ssh nodec true` has to work without a question", text)
    assert lines["all-reduce"][0] == "skip" and lines["versions"][0] == "ok"
