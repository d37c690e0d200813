"""Make training data from text: one sentence per line, a blank line after each document.

python scripts/preprocess.py                                   (data/train.txt -> data/train)
python scripts/preprocess.py --input_file 'corpus/*.txt' --output_dir data/train
python scripts/preprocess.py --mode exact --max_seq_length 128 --random_seed 12345

Writes a token store with instances of each length, and another of 1 % of the documents for
validation. The result depends on text and options only, not on the number of workers. After a kill
the same command goes on where it was.
"""

import sys

if not __package__:
    sys.path.pop(0)  # this folder's file names must not shadow other packages
try:
    from ds_bert import errors
except ModuleNotFoundError:
    sys.exit("ds_bert is not installed: run `pip install -e .` in the repository's folder")

import argparse
import os
from itertools import chain

from ds_bert.dataset.options import MODES
from ds_bert.preprocessing.job import preprocess
from ds_bert.preprocessing.messages import last_screen, warnings
from ds_bert.preprocessing.options import ERRORS, PreprocessOptions
from ds_bert.text.inputs import TEXT_COLUMN


def numbers(text: str) -> list[int]:
    """Integers of a comma list."""
    return [int(number) for number in text.split(",") if number]


def parse(argv: list[str] | None) -> PreprocessOptions:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument_group("files").add_argument
    add("--input_file", nargs="+", default=["data/train.txt"], metavar="FILE",
        help="files (text, .jsonl, .csv, .parquet; also .gz, .xz, .bz2, .zst), globs, folders, "
        "data sets of save_to_disk, hf:OWNER/NAME[:CONFIG[:SPLIT]] of the hub, - for standard "
        "input; comma lists; default data/train.txt")  # fmt: skip
    add("--text_column", default=TEXT_COLUMN, metavar="NAME",
        help="column of the text in tables and data sets; default text")  # fmt: skip
    add("--sentence_splitter", metavar="LANGUAGE",
        help="split paragraphs into sentences by the rules of this language (en, de, zh, ...); "
        "default: each line is a sentence")  # fmt: skip
    add("--output_dir", "--output_file", default="data/train", help="default data/train")
    add("--vocab_file", default="data/vocab.txt", help="default data/vocab.txt")
    add("--validation_dir",
        help="default: beside the output folder, 'validation' for a folder called train, "
        "'NAME_validation' for another NAME")  # fmt: skip
    add("--validation_fraction", type=float, metavar="SHARE",
        help="share of the documents for validation; default 0.01, in exact mode 0")  # fmt: skip
    add("--overwrite", action="store_true",
        help="replace an existing data set, also an unfinished one of other options")  # fmt: skip
    add = parser.add_argument_group("instances").add_argument
    add("--mode", default="fast", choices=MODES,
        help="exact: bit for bit as Google's create_pretraining_data.py; default fast")  # fmt: skip
    add("--do_lower_case", action=argparse.BooleanOptionalAction, default=True,
        help="lower-case the text and strip accents (default)")  # fmt: skip
    add("--no_do_lower_case", dest="do_lower_case", action="store_false", help=argparse.SUPPRESS)
    add("--do_whole_word_mask", action=argparse.BooleanOptionalAction, default=False,
        help="mask all pieces of a word or none; default: single pieces")  # fmt: skip
    add("--max_seq_length", type=numbers, nargs="+", default=[[128, 512]], metavar="N",
        help="one length or several; default 128 512")  # fmt: skip
    add("--max_predictions_per_seq", type=numbers, nargs="+", metavar="N",
        help="as many; default 20 for each 128 tokens")  # fmt: skip
    add("--masked_lm_prob", type=float, default=0.15, help="share of tokens to mask; default 0.15")
    add("--short_seq_prob", type=float, default=0.1,
        help="share of documents cut into shorter sequences; default 0.1")  # fmt: skip
    add("--dupe_factor", type=int,
        help="copies of the text with other pairs; default 5, in exact mode 10")  # fmt: skip
    add("--random_seed", type=int, default=12345, help="default 12345")
    add = parser.add_argument_group("running").add_argument
    add("--num_workers", type=int, default=len(os.sched_getaffinity(0)),
        help="threads; default: all cores")  # fmt: skip
    add("--errors", default="strict", choices=ERRORS,
        help="bytes that are not UTF-8: refuse (strict, default) or leave out")  # fmt: skip
    add("--dry_run", action="store_true",
        help="only print how much time, disk and memory it will take")  # fmt: skip
    values = vars(parser.parse_args(argv))
    for name in ("max_seq_length", "max_predictions_per_seq"):
        values[name] = values[name] and list(chain(*values[name]))
    return PreprocessOptions(**values)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, preprocess and say what was done; returns the exit code."""
    options = parse(argv)
    result = preprocess(options, say=print)
    if result is None:
        return 0
    for warning in warnings(options, result):
        print(f"warning: {warning}", file=sys.stderr)
    print(last_screen(result))
    return 0


if __name__ == "__main__":
    errors.exit_with(main)
