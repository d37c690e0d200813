"""Check hosts before a run: one line a check, not 0 where the run would fail.

python scripts/preflight.py --hostfile hosts --ds_config seq128 --train_data data/train
python scripts/preflight.py --ds_config demo/seq128 --num_accelerators 2     (this machine alone)
python scripts/preflight.py --hostfile hosts                                 (without a recipe)

Takes the flags of training as well. Needs ssh to each host without a question, and ds_bert there in
the same folder with the same Python, as the deepspeed launcher does.
"""

import argparse
import time
from itertools import chain
from typing import Any

from ds_bert.commands.parser import new_parser
from ds_bert.errors import ConfigurationError, require

_BAD = 2  # exit code


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line, ask all hosts and print lines; returns the exit code."""
    options, rest = _parser(prog).parse_known_args(argv)
    from ds_bert.preflight.check import Request, preflight  # after parsing: psutil, numpy
    from ds_bert.preflight.line import BAD

    begin, bad, number = time.monotonic(), 0, 0
    slots = _slots(options)
    about, *batch = _about(options.ds_config, rest, sum(slots.values()))
    request = Request(slots=slots, commands=_commands(options, slots), **_where(options), **about)
    for line in chain(batch, preflight(request)):
        print(line, flush=True)
        bad, number = bad + (line.state == BAD), number + 1
    seconds = time.monotonic() - begin
    verdict = f"{bad} of them BAD: the run would fail" if bad else "nothing that would stop a run"
    print(f"{number} checks in {seconds:.1f} s, {verdict}", flush=True)
    return _BAD if bad else 0


def _parser(prog: str | None) -> argparse.ArgumentParser:
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("--hostfile", metavar="FILE", help="lines such as: host1 slots=8; none: this machine")
    add("--include", default="", help="only these, as DeepSpeed's: host1@host2:0,1")
    add("--exclude", default="", help="all but these, as DeepSpeed's")
    add("--num_accelerators", "--num_gpus", type=int, default=1, help="ranks on this machine")
    add("--ssh_port", type=int, help="port of the hosts' ssh servers")
    add("--master_addr", help="where ranks meet; default: DeepSpeed's choice on the first host")
    add("--master_port", type=int, default=29500, help="the same, default %(default)s")
    add("--seconds", type=float, default=60, help="time limit of all, default %(default)s")
    add("--ds_config", metavar="RECIPE", help="and the flags of ds-bert train, as the run gets")
    return parser


def _slots(options: argparse.Namespace) -> dict[str, int]:
    from ds_bert.preflight.hostfile import chosen, read_hostfile

    number = options.num_accelerators
    if options.hostfile is None:
        require(number > 0, "--num_accelerators", number, "at least 1")
        return {"localhost": number}
    return chosen(read_hostfile(options.hostfile), options.include, options.exclude)


def _commands(options: argparse.Namespace, slots: dict[str, int]) -> dict[str, list[str]]:
    from ds_bert.preflight.remote import here, over_ssh

    if options.hostfile is None:
        return {name: here() for name in slots}
    return {name: over_ssh(name, options.ssh_port) for name in slots}


def _where(options: argparse.Namespace) -> dict[str, Any]:
    """Where ranks meet, and how long all may take."""
    from ds_bert.preflight.hostfile import is_host

    address, port, seconds = options.master_addr, options.master_port, options.seconds
    require(address is None or is_host(address), "--master_addr", address, "a host or address")
    require(0 < port < 2**16, "--master_port", port, "1 to 65535")
    require(seconds >= 10, "--seconds", seconds, "at least 10")
    return {"master_addr": address, "master_port": port, "seconds": seconds}


def _about(recipe_name: str | None, flags: list[str], world_size: int) -> tuple[Any, ...]:
    """What a recipe and the flags of training name; and whether its batch fits the ranks."""
    from ds_bert.batching.equation import plan_batch
    from ds_bert.commands.train import parse_command_line
    from ds_bert.preflight.line import BAD, OK, Line

    if recipe_name is None:
        require(not flags, "flags of training", " ".join(flags), "--ds_config with them")
        return ({},)
    config, recipe = parse_command_line(["--ds_config", recipe_name, *flags], None, world_size)
    data = {"train_data": config.train_data, "validation_data": config.validation_data}
    about = {
        "recipe": recipe_name,
        "data": {name: folder for name, folder in data.items() if folder},
        "max_seq_length": config.max_seq_length,
        "output_dir": config.output_dir,
        "local_data": config.local_data,
    }
    try:
        batch = plan_batch(recipe, world_size, config.elastic_batch, config.batch_ramp)
        return about, Line(OK, "batch", str(batch))
    except ConfigurationError as error:
        return about, Line(BAD, "batch", str(error))
