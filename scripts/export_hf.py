"""Copy the newest good checkpoint of a run to a Hugging Face model folder.

python scripts/export_hf.py --checkpoint runs/seq512 --output_dir models/my-bert
"""

import sys

if not __package__:
    sys.path.pop(0)  # this folder's file names must not shadow other packages
try:
    from ds_bert import errors
except ModuleNotFoundError:
    sys.exit("ds_bert is not installed: run `pip install -e .` in the repository's folder")

import argparse


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, export and say what was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="run folder or checkpoint")
    add("--output_dir", required=True, help="where the model folder goes")
    add("--overwrite", action="store_true", help="replace a model folder that is there")
    options = parser.parse_args(argv)
    from ds_bert.checkpoint.hf_folder import (
        export_model,  # after parsing: torch takes seconds to import
    )

    source = export_model(options.checkpoint, options.output_dir, options.overwrite)
    print(f"{source} -> {options.output_dir}")


if __name__ == "__main__":
    errors.exit_with(main)
