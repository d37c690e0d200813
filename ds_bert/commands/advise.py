"""Advise on a run: from text, hardware and hours to a recipe, each number with its reason.

ds-bert advise --input_file text.txt --hours 8 --language pt
ds-bert advise --train_data data/train --hours 8 --on 8xH100 --save_recipe my.json

Nothing is trained. The recipe of the second phase, if there is one, is written beside the first.
"""

import argparse
from pathlib import Path

from ds_bert.commands.parser import new_parser
from ds_bert.errors import require


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line, print the advice and write the recipes."""
    options = _parse(argv, prog)
    hours, mfu = options.hours, options.mfu
    require(0 < hours < float("inf"), "--hours", hours, "above 0")
    require(mfu is None or 0 < mfu <= 1, "--mfu", mfu, "above 0, at most 1")
    from ds_bert.advice import corpus  # after parsing: torch takes seconds to import
    from ds_bert.advice.advise import advise, describe, save
    from ds_bert.advice.hardware import speed_of

    data = options.train_data
    text = corpus.of_data(data) if data else corpus.of_text(options.input_file)
    advice = advise(text, *speed_of(options.on, mfu), options.hours, options.language)
    for name, told in describe(advice):
        print(f"{name:>16}: {told}")
    for line in save(advice, options.save_recipe) if options.save_recipe else ():
        print(line)


def _parse(argv: list[str] | None, prog: str | None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input_file", nargs="+", help="text: all that ds-bert preprocess takes")
    source.add_argument("--train_data", metavar="DATASET", help="folder of a data set")
    add = parser.add_argument
    add("--hours", type=float, required=True, help="of training")
    add("--on", metavar="GPUS", help="such as 8xH100; default: this machine")
    add("--mfu", type=float, help="share of the GPUs' peak that training reaches")
    add("--language", help="of the text, ISO 639: en, pt, ...; default: not said")
    add("--save_recipe", type=Path, metavar="FILE", help="write the recipe")
    return parser.parse_args(argv)
