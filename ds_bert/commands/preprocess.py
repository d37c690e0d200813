"""Make training data from text: one sentence per line, a blank line after each document.

python scripts/preprocess.py                                   (data/train.txt -> data/train)
python scripts/preprocess.py --input_file 'corpus/*.txt' --output_dir data/train
python scripts/preprocess.py --input_file 'en=corpus/en/*.txt:2' 'de=s3://bucket/de/*' --deduplicate
python scripts/preprocess.py --mode exact --max_seq_length 128 --random_seed 12345
python scripts/preprocess.py --output_file data/train_128.tfrecord     (finished instances)

Writes a token store with instances of each length, and another of 1 % of the documents for
validation. The result depends on text and options only, not on the number of workers. After a kill
the same command goes on where it was.

An --output_file that ends in .json, .jsonl (also .gz), .tfrecord, .hdf5, .h5 or .parquet, or a
comma list of such, gets the instances themselves, as the scripts of Google and NVIDIA write them:
by default in exact mode with their masks, of 128 tokens, from all documents, 10 copies.
"""

import sys

from ds_bert.bridges.formats import names_instance_files, with_defaults_of_files
from ds_bert.commands.parser import add_flags, new_parser
from ds_bert.dialects.command_line import is_foreign
from ds_bert.preprocessing.options import PreprocessOptions


def parse(argv: list[str] | None, prog: str | None = None) -> PreprocessOptions:
    """The command line."""
    parser = new_parser(__doc__, prog)
    add_flags(parser, PreprocessOptions)
    argv = sys.argv[1:] if argv is None else argv
    own = {name.lstrip("-") for name in parser.flags}
    if is_foreign(argv, own):
        from ds_bert.dialects import systems, translate

        command = translate.foreign(systems.PREPROCESS, argv, own)
        assert command is not None
        parser.set_defaults(**translate.preprocess_options(command))
        argv = command.rest
    return PreprocessOptions(**with_defaults_of_files(vars(parser.parse_args(argv))))


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line, preprocess and say what was done; returns the exit code."""
    options = parse(argv, prog)
    # After parsing: numba takes half a second to import.
    from ds_bert.bridges.exporting import preprocess_to_files
    from ds_bert.preprocessing.job import preprocess
    from ds_bert.preprocessing.messages import last_screen, warnings

    is_files = names_instance_files(options.output_dir)
    result = (preprocess_to_files if is_files else preprocess)(options, say=print)
    if result is None:
        return 0
    for warning in warnings(options, result):
        print(f"warning: {warning}", file=sys.stderr)
    if not is_files:
        print(last_screen(result))
    return 0
