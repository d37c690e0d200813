"""Make training data from text: one sentence per line, a blank line after each document.

python scripts/preprocess.py                                   (data/train.txt -> data/train)
python scripts/preprocess.py --input_file 'corpus/*.txt' --output_dir data/train
python scripts/preprocess.py --mode exact --max_seq_length 128 --random_seed 12345

Writes a token store with instances of each length, and another of 1 % of the documents for
validation. The result depends on text and options only, not on the number of workers. After a kill
the same command goes on where it was.
"""

import sys

from ds_bert.commands.parser import add_flags, new_parser
from ds_bert.dialects.command_line import is_foreign
from ds_bert.preprocessing.options import PreprocessOptions


def parse(argv: list[str] | None, prog: str | None = None) -> PreprocessOptions:
    """The command line."""
    parser = new_parser(__doc__, prog)
    add_flags(parser, PreprocessOptions)
    argv = sys.argv[1:] if argv is None else argv
    own = {name.lstrip("-") for name in parser.flags}
    if not is_foreign(argv, own):
        return PreprocessOptions(**vars(parser.parse_args(argv)))
    from ds_bert.dialects import translate

    command = translate.foreign(translate.PREPROCESS, argv, own)
    assert command is not None
    parser.set_defaults(**translate.preprocess_options(command))
    return PreprocessOptions(**vars(parser.parse_args(command.rest)))


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line, preprocess and say what was done; returns the exit code."""
    options = parse(argv, prog)
    # After parsing: numba takes half a second to import.
    from ds_bert.preprocessing.job import preprocess
    from ds_bert.preprocessing.messages import last_screen, warnings

    result = preprocess(options, say=print)
    if result is None:
        return 0
    for warning in warnings(options, result):
        print(f"warning: {warning}", file=sys.stderr)
    print(last_screen(result))
    return 0
