"""Train with several processes, on this machine or on several: DeepSpeed's launcher, and a door.

python scripts/launch.py --num_accelerators 8 ds_bert/train.py --ds_config seq128
python scripts/launch.py --hostfile hosts --restarts 5 ds_bert/train.py --ds_config seq128
python scripts/launch.py --num_accelerators 8 --module ds_bert.train --ds_config seq128
python scripts/launch.py --hostfile hosts --elastic ds_bert/train.py --ds_config seq128

All other arguments are those of the `deepspeed` command. SIGTERM, SIGINT (Ctrl-C) and SIGUSR1
reach all ranks, which save and stop; the exit code is that of the training.
"""

from ds_bert.commands.parser import new_parser
from ds_bert.errors import ConfigurationError, require
from ds_bert.launching.door import Door


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse our own flags and launch with the rest; returns the exit code."""
    parser = new_parser(__doc__, prog)
    parser.allow_abbrev = False
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="start again up to N times after a crash, a hang or a lost host (default 0)",
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="before the first restart; doubles up to five minutes (default 10)",
    )
    parser.add_argument(
        "--elastic",
        action="store_true",
        help="go on with the hosts that are left where one is lost, and with all when it is back",
    )
    parser.add_argument(
        "--min_hosts",
        type=int,
        metavar="N",
        help="with fewer, --elastic waits (default 1)",
    )
    parser.add_argument(
        "--check_hosts",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="between two looks of --elastic at hosts that are missing (default 60)",
    )
    options, arguments = parser.parse_known_args(argv)
    require(options.restarts >= 0, "restarts", options.restarts, "0 or more")
    require(options.pause >= 0, "pause", options.pause, "0 or more seconds")
    if not arguments:
        raise ConfigurationError(
            "launch: found no program, expected DeepSpeed's arguments, such as: "
            "--num_accelerators 2 ds_bert/train.py --ds_config demo/seq128"
        )
    require(options.check_hosts > 0, "check_hosts", options.check_hosts, "above 0 seconds")
    is_right = options.elastic or options.min_hosts is None
    require(is_right, "min_hosts", options.min_hosts, "--elastic with it")
    if options.elastic and options.min_hosts is None:
        options.min_hosts = 1
    how = (options.restarts, options.pause, options.min_hosts, options.check_hosts)
    return Door(arguments, *how).launch()
