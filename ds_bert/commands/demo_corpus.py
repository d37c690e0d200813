"""Make a small corpus of real English from what every Python installation carries.

    python scripts/make_demo_corpus.py --output_file data/train.txt

Documents are the topics of Python's built-in help and the docstrings of one module each: one
sentence a line, a blank line between documents.
"""

import argparse
from pathlib import Path

from ds_bert.text.demo_corpus import write_corpus


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Write the corpus and say how large it is."""
    parser = argparse.ArgumentParser(prog, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output_file", default="data/train.txt")
    parser.add_argument("--max_megabytes", type=float, default=5.0)
    options = parser.parse_args(argv)
    print(write_corpus(Path(options.output_file), options.max_megabytes))
