"""DeepSpeed's command line with other hosts in it."""

import argparse
from collections.abc import Sequence

from ds_bert.errors import ConfigurationError, require
from ds_bert.launching import run_folder
from ds_bert.preflight.hostfile import chosen_slots, is_host, read_hostfile

# DeepSpeed's flags that would contradict a choice of hosts.
_FIXED = ("--num_nodes", "--num_gpus", "--num_accelerators", "--no_ssh", "--node_rank")


class Command:
    """The arguments of the `deepspeed` command, to be launched on some of its hosts.

    Args:
        arguments: of the command.

    Attributes:
        hosts: those of the hostfile that --include and --exclude leave, and their slots.
        ssh_port: of their ssh servers; None: ssh's own.

    Raises:
        ConfigurationError: no hostfile, no training of ds_bert, or flags that fix the hosts.
    """

    def __init__(self, arguments: list[str]):
        begin = run_folder.training_begins(arguments)
        if begin is None:
            raise ConfigurationError(
                "elastic: found no training of ds_bert, which stops and goes on; expected "
                "ds_bert/train.py or --module ds_bert.train"
            )
        self._given, self._others = _parser().parse_known_args(arguments[:begin])
        self._training = [*arguments[begin:], "--elastic_batch", "true"]
        fixed = [word for word in self._others if word.partition("=")[0] in _FIXED]
        require(not fixed, "elastic", fixed, "hosts to choose from: leave it out")
        given = self._given
        require(given.hostfile is not None, "elastic: --hostfile", None, "hosts to choose from")
        require(given.launcher == "pdsh", "elastic: --launcher", given.launcher, "pdsh")
        self.ssh_port: int | None = given.ssh_port
        found = read_hostfile(given.hostfile)
        self._all = found
        self.hosts = chosen_slots(found, given.include, given.exclude)
        for name in self.hosts:  # DeepSpeed's --include cuts at a colon
            require(":" not in name, "elastic: host", name, "a name or an IPv4 address")

    def on(self, names: Sequence[str]) -> list[str]:
        """The arguments that launch on these hosts, in this order; through ssh also on one alone.

        A --master_addr is that of the first host of the hostfile; where that is missing, ranks
        meet at the name of another one.
        """
        where = ["--hostfile", self._given.hostfile, "--include", "@".join(map(self._slots, names))]
        where.append("--force_multi")
        if self.ssh_port is not None:
            where += ["--ssh_port", str(self.ssh_port)]
        if (address := self._given.master_addr) is not None:
            is_its = names[0] == next(iter(self.hosts))
            where += ["--master_addr", address if is_its else names[0]]
        return [*where, *self._others, *self._training]

    def _slots(self, name: str) -> str:
        slots = self.hosts[name]
        every = len(slots) == self._all[name]
        return name if every else f"{name}:{','.join(map(str, slots))}"


def _parser() -> argparse.ArgumentParser:
    """DeepSpeed's own flags, as far as they say where to launch."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-H", "--hostfile")
    parser.add_argument("-i", "--include", default="")
    parser.add_argument("-e", "--exclude", default="")
    parser.add_argument("--master_addr", type=_host)
    parser.add_argument("--ssh_port", type=int)
    parser.add_argument("--launcher", default="pdsh", type=str.lower)
    parser.add_argument("--force_multi", action="store_true")
    return parser


def _host(name: str) -> str:
    require(is_host(name), "--master_addr", name, "a host or address")
    return name
