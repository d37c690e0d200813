"""Go the whole road from text to a model (see `ds_bert.commands.pretrain`)."""

import sys

if not __package__:
    sys.path.pop(0)  # this folder's file names must not shadow other packages
try:
    from ds_bert import errors
except ModuleNotFoundError:
    sys.exit("ds_bert is not installed: run `pip install -e .` in the repository's folder")

from ds_bert.commands.pretrain import main

if __name__ == "__main__":
    errors.exit_with(main)
