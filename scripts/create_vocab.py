"""Make the vocabulary file: learn WordPiece from text, or save a model's.

    python scripts/create_vocab.py --input_file 'data/*.txt' --vocab_size 30522
    python scripts/create_vocab.py --input_file data/train.txt --no_do_lower_case --vocab_size 8192
    python scripts/create_vocab.py --model_name_or_path google-bert/bert-base-uncased

The same text and options give the same file, byte for byte.
"""

import sys

if not __package__:
    sys.path.pop(0)  # this folder's file names must not shadow other packages

import argparse
from pathlib import Path

try:
    from ds_bert import errors
except ModuleNotFoundError:
    sys.exit("ds_bert is not installed: run `pip install -e .` in the repository's folder")

from ds_bert.text.inputs import TEXT_COLUMN, find_inputs
from ds_bert.tokenizer.learn import MIN_FREQUENCY, count_words, learn_vocabulary
from ds_bert.tokenizer.vocabulary import Vocabulary, read_model_vocabulary


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input_file", nargs="+", help="text to learn from: all that preprocess.py takes"
    )
    source.add_argument(
        "--model_name_or_path", help="save this model's vocabulary: a folder or a hub id"
    )
    add = parser.add_argument
    add("--vocab_file", type=Path, default=Path("data/vocab.txt"), help="default: %(default)s")
    add(
        "--text_column",
        default=TEXT_COLUMN,
        help="column of the text in tables and data sets (default: %(default)s)",
    )
    add("--vocab_size", type=positive, default=30522, help="tokens (default: %(default)s)")
    add(
        "--do_lower_case",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="lower-case the text and strip its accents; give preprocess.py the same",
    )
    add("--no_do_lower_case", dest="do_lower_case", action="store_false", help=argparse.SUPPRESS)
    add(
        "--min_frequency",
        type=positive,
        default=MIN_FREQUENCY,
        help="merge pieces that meet at least so often (default: %(default)s)",
    )
    add(
        "--max_alphabet",
        type=positive,
        help="different characters to keep (default: 1000, or what 99.99 %% of the text needs)",
    )
    add(
        "--errors",
        choices=("strict", "ignore"),
        default="strict",
        help="bytes that are not UTF-8: refuse the file or leave them out (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace a vocabulary file with other content")
    return parser


def learn(options: argparse.Namespace) -> Vocabulary:
    """Learn from the input files and say how the vocabulary fits them."""
    inputs = find_inputs(
        options.input_file,
        text_column=options.text_column,
        leave_out=options.vocab_file,  # data/*.txt also finds the vocabulary of an earlier run
    )
    counts = count_words(inputs, options.do_lower_case, options.errors == "ignore")
    learned = learn_vocabulary(
        counts, options.vocab_size, options.min_frequency, options.max_alphabet
    )
    print(
        f"{learned.num_words:,} words, {len(counts):,} different; "
        f"{learned.num_characters:,} characters kept, {learned.num_dropped_characters:,} left out "
        f"({learned.num_unknown / learned.num_words:.3%} of the words hold one of those)"
    )
    if learned.vocabulary.size < options.vocab_size:
        print(f"no pair of pieces is left that meets {options.min_frequency} times or more")
    return learned.vocabulary


def main(argv: list[str] | None = None) -> None:
    """Make the vocabulary and save it."""
    options = make_parser().parse_args(argv)
    if options.model_name_or_path is not None:
        vocabulary = read_model_vocabulary(options.model_name_or_path)
    else:
        vocabulary = learn(options)
    written = vocabulary.save_new(options.vocab_file, options.overwrite)
    state = "written" if written else "has this content already, left as it is"
    print(f"{options.vocab_file}: {vocabulary.size:,} tokens, {state}")


if __name__ == "__main__":
    errors.exit_with(main)
