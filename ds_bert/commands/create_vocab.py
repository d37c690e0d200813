"""Make the vocabulary file: learn WordPiece from text, or save a model's.

    python scripts/create_vocab.py --input_file 'data/*.txt' --vocab_size 30522
    python scripts/create_vocab.py --input_file data/train.txt --no_do_lower_case --vocab_size 8192
    python scripts/create_vocab.py --model_name_or_path google-bert/bert-base-uncased

The same text and options give the same file, byte for byte.
"""

import argparse
from pathlib import Path

from ds_bert.commands.parser import Parser, add_negation, new_parser
from ds_bert.preprocessing.options import ERRORS
from ds_bert.text.inputs import TEXT_COLUMN, find_corpora
from ds_bert.tokenizer.learn import MIN_FREQUENCY, count_words, learn_vocabulary
from ds_bert.tokenizer.vocabulary import Vocabulary, read_model_vocabulary


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parse(argv: list[str] | None, prog: str | None = None) -> argparse.Namespace:
    """The command line."""
    return make_parser(prog).parse_args(argv)


def make_parser(prog: str | None = None) -> Parser:
    """The parser of the command line."""
    parser = new_parser(__doc__, prog)
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
    add_negation(parser, "do_lower_case")
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
        choices=ERRORS,
        default="strict",
        help="bytes that are not UTF-8: refuse the file or leave them out (default: %(default)s)",
    )
    add(
        "--leave_out",
        type=Path,
        metavar="PATH",
        help="a file or folder in which no text is, though names of inputs may match it (default: "
        "--vocab_file)",
    )
    add("--overwrite", action="store_true", help="replace a vocabulary file with other content")
    return parser


def learn(options: argparse.Namespace) -> Vocabulary:
    """Learn from the input files and say how the vocabulary fits them."""
    corpora = find_corpora(
        options.input_file,
        text_column=options.text_column,
        # data/*.txt also finds the vocabulary of an earlier run
        leave_out=options.leave_out or options.vocab_file,
    )
    if any(corpus.weight is not None for corpus in corpora):
        print("weights of corpora are for training; for the vocabulary all text counts as it is")
    inputs = [source for corpus in corpora for source in corpus.inputs]
    counts = count_words(inputs, options.do_lower_case, options.errors != "strict")
    learned = learn_vocabulary(
        counts, options.vocab_size, options.min_frequency, options.max_alphabet
    )
    print(learned.describe(counts))
    if learned.vocabulary.size < options.vocab_size:
        print(f"no pair of pieces is left that meets {options.min_frequency} times or more")
    return learned.vocabulary


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Make the vocabulary and save it."""
    options = parse(argv, prog)
    if options.model_name_or_path is not None:
        vocabulary = read_model_vocabulary(options.model_name_or_path)
    else:
        vocabulary = learn(options)
    written = vocabulary.save_new(options.vocab_file, options.overwrite)
    state = "written" if written else "has this content already, left as it is"
    print(f"{options.vocab_file}: {vocabulary.size:,} tokens, {state}")
