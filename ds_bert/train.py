"""Train a BERT.

deepspeed --num_accelerators 2 ds_bert/train.py --ds_config demo/seq128
deepspeed --hostfile hosts ds_bert/train.py --ds_config ds_configs/seq128.json
deepspeed --num_accelerators 2 --module ds_bert.train --ds_config demo/seq128    (from any folder)

See `ds_bert.commands.train`.
"""

import sys

if not __package__:
    sys.path.pop(0)  # this folder's file names must not shadow other packages
try:
    from ds_bert import errors
except ModuleNotFoundError:
    sys.exit("ds_bert is not installed: run `pip install -e .` in the repository's folder")

from ds_bert.commands.train import main

if __name__ == "__main__":
    errors.exit_with(main)
