"""Train a BERT.

deepspeed --num_accelerators 2 ds_bert/train.py --ds_config ds_configs/demo/seq128.json
deepspeed --hostfile hosts ds_bert/train.py --ds_config ds_configs/seq128.json
python ds_bert/train.py --ds_config ds_configs/demo/seq128.json --dry_run
"""

import sys

if not __package__:
    sys.path.pop(0)  # this folder's file names must not shadow other packages
try:
    from ds_bert import errors
except ModuleNotFoundError:
    sys.exit("ds_bert is not installed: run `pip install -e .` in the repository's folder")

from ds_bert.config import parse_command_line


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and train; returns the exit code."""
    config, recipe = parse_command_line(argv)
    from ds_bert import distributed  # after parsing: torch and DeepSpeed take seconds to import
    from ds_bert.run import run

    try:
        return run(config, recipe)
    finally:
        distributed.shutdown()


if __name__ == "__main__":
    errors.exit_with(main)
