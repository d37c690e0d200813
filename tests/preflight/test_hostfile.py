"""Names of hosts are names and nothing else."""

import pytest

from ds_bert.errors import ConfigurationError
from ds_bert.preflight.hostfile import chosen, is_host, read_hostfile

HOSTILE = [
    "-oProxyCommand=touch${IFS}x",
    "^/etc/passwd",
    "h1;reboot",
    "$(id)",
    "`id`",
    "h[1-4]",
    "user@host",
    "/re/",
    "a'b",
    "host\u0131",
    "fe80::1%eth0",
    "-host",
    "host-",
    "a" * 300,
]


def write(folder, text):
    path = folder / "hosts"
    path.write_text(text)
    return path


def test_what_deepspeed_reads(tmp_path):
    runner = pytest.importorskip("deepspeed.launcher.runner")
    text = "# two hosts\n\nhost1 slots=8\n  10.0.0.2\tslots=8 # comment\n::1 slots=8\n"
    path = write(tmp_path, text)
    assert read_hostfile(path) == runner.fetch_hostfile(path)
    assert list(read_hostfile(path)) == ["host1", "10.0.0.2", "::1"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(tmp_path, name):
    assert not is_host(name)
    with pytest.raises(ConfigurationError, match="hosts:2: found"):
        read_hostfile(write(tmp_path, f"good slots=1\n{name} slots=1\n"))


@pytest.mark.parametrize("line", ["host", "host slots=", "host slots=0", "host slots=1 x", "a b"])
def test_bad_lines(tmp_path, line):
    with pytest.raises(ConfigurationError, match="hosts:1"):
        read_hostfile(write(tmp_path, line))


def test_empty_double_and_absent(tmp_path):
    with pytest.raises(ConfigurationError, match="no host"):
        read_hostfile(write(tmp_path, "# none\n"))
    with pytest.raises(ConfigurationError, match="a second time"):
        read_hostfile(write(tmp_path, "a slots=1\na slots=1\n"))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_hostfile(tmp_path / "absent")


HOSTS = {"a": 4, "b": 4, "c": 2}
FILTERS = [
    ("", ""),
    ("b", ""),
    ("c@a", ""),
    ("a:0,2@c", ""),
    ("", "b"),
    ("", "a:0@c:0,1"),
    ("", "a:0,0,1"),
]


@pytest.mark.parametrize(("include", "exclude"), FILTERS)
def test_include_and_exclude_leave_what_deepspeed_leaves(include, exclude):
    runner = pytest.importorskip("deepspeed.launcher.runner")
    theirs = runner.parse_inclusion_exclusion(HOSTS, include, exclude)
    ours = chosen(HOSTS, include, exclude)
    if exclude == "a:0,0,1":
        return  # DeepSpeed stumbles over a slot that comes twice after all
    assert list(ours.items()) == [(name, len(slots)) for name, slots in theirs.items()]


@pytest.mark.parametrize(
    ("include", "exclude"),
    [("d", ""), ("a:4", ""), ("a:x", ""), ("a:", ""), ("a", "b"), ("", "a@b@c"), ("", "a:-1")],
)
def test_filters_that_are_refused(include, exclude):
    with pytest.raises(ConfigurationError):
        chosen(HOSTS, include, exclude)
