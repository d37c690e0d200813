"""DeepSpeed's arguments for some of the hosts."""

import pytest

from ds_bert.commands.launch import main
from ds_bert.errors import ConfigurationError
from ds_bert.launching.command import Command

SCRIPT = ["ds_bert/train.py", "--ds_config", "seq128", "--include", "of the training"]


@pytest.fixture
def hostfile(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("nodea slots=4\nnodeb slots=4\nnodec slots=4\n")
    return str(path)


def test_the_hosts_are_filled_in_and_the_rest_stays(hostfile):
    own = ["-H", hostfile, "--master_port", "123", "--ssh_port=2222", "--launcher_args", "-u 5"]
    command = Command([*own, *SCRIPT])
    assert command.on(["nodea", "nodec"]) == [
        *("--hostfile", hostfile, "--include", "nodea@nodec", "--force_multi"),
        *("--ssh_port", "2222", "--master_port", "123", "--launcher_args", "-u 5"),
        *(*SCRIPT, "--elastic_batch", "true"),
    ]


def test_slots_and_hosts_of_the_users_filter(hostfile):
    command = Command(["--hostfile", hostfile, "--include", "nodeb:0,2@nodea", *SCRIPT])
    assert command.hosts == {"nodea": [0, 1, 2, 3], "nodeb": [0, 2]}
    assert command.on(["nodea", "nodeb"])[3] == "nodea@nodeb:0,2"
    command = Command(["--hostfile", hostfile, "--exclude", "nodea@nodec:3", *SCRIPT])
    assert command.on(["nodeb", "nodec"])[3] == "nodeb@nodec:0,1,2"


def test_the_meeting_follows_the_first_host(hostfile):
    command = Command(["--hostfile", hostfile, "--master_addr", "10.0.0.1", *SCRIPT])
    where = [command.on(names) for names in (["nodea", "nodec"], ["nodeb", "nodec"])]
    found = [words[words.index("--master_addr") + 1] for words in where]
    assert found == ["10.0.0.1", "nodeb"]
    assert "--master_addr" not in Command(["--hostfile", hostfile, *SCRIPT]).on(["nodea"])


def test_what_deepspeed_reads(hostfile, monkeypatch):
    runner = pytest.importorskip("deepspeed.launcher.runner")
    command = Command(["--hostfile", hostfile, "--include", "nodeb:0,2@nodea", *SCRIPT])
    found = runner.parse_args(command.on(["nodea", "nodeb"]))
    hosts = runner.fetch_hostfile(found.hostfile)
    assert runner.parse_inclusion_exclusion(hosts, found.include, "") == command.hosts
    assert found.user_args[-2:] == ["--elastic_batch", "true"] and found.force_multi


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (SCRIPT, "elastic: --hostfile: found None"),
        (["-H", "HOSTS", "other.py"], "found no training of ds_bert"),
        (["-H", "HOSTS", "--num_nodes", "2", *SCRIPT], "found .'--num_nodes'., .* leave it out"),
        (["-H", "HOSTS", "--launcher", "OpenMPI", *SCRIPT], "found 'openmpi', expected pdsh"),
        (["-H", "HOSTS", "--master_addr", "a;y", *SCRIPT], "found .a;y., expected a host or"),
        (["-H", "HOSTS", "--include", "noded", *SCRIPT], "expected one of nodea, nodeb, nodec"),
    ],
)
def test_what_is_refused(hostfile, flags, message):
    with pytest.raises(ConfigurationError, match=message):
        Command([hostfile if word == "HOSTS" else word for word in flags])


def test_addresses_with_colons(tmp_path):
    (tmp_path / "hosts").write_text("10.0.0.1 slots=1\n::1 slots=1\n")
    with pytest.raises(ConfigurationError, match="found '::1', expected a name or an IPv4"):
        Command(["--hostfile", str(tmp_path / "hosts"), *SCRIPT])


def test_a_minimum_needs_elastic(hostfile):
    with pytest.raises(ConfigurationError, match="min_hosts: found 2, expected --elastic with it"):
        main(["--min_hosts", "2", "--hostfile", hostfile, *SCRIPT])
    with pytest.raises(ConfigurationError, match="train_batch_size: found None, expected the size"):
        main(["--elastic", "--hostfile", hostfile, "ds_bert/train.py"])
