r"""Score a model on a task of your own: fine-tunes it with several seeds, prints one JSON object.

python scripts/score.py --checkpoint runs/seq512 --task classification \
    --train_file train.csv --test_file test.csv --untrained
python scripts/score.py --checkpoint B --compare A --task tagging \
    --train_file train.jsonl --test_file test.jsonl --text_column words --label_column tags
python scripts/score.py --checkpoint runs/seq512 --task pairs --train_file hf:OWNER/NAME \
    --test_file hf:OWNER/NAME --text_column premise --text_pair_column hypothesis
"""

from ds_bert import files
from ds_bert.commands.evaluate import check_output, write_output
from ds_bert.commands.parser import add_flags, new_parser
from ds_bert.scoring.options import ScoreOptions


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line, score and print the record."""
    parser = new_parser(__doc__, prog)
    add_flags(parser, ScoreOptions)
    parser.add_argument("--output", metavar="FILE", help="write the JSON there as well")
    values = vars(parser.parse_args(argv))
    output = values.pop("output")
    check_output(output)
    options = ScoreOptions(**values)
    from ds_bert import distributed  # after parsing: torch takes seconds to import
    from ds_bert.scoring.job import score

    text = files.as_json(score(options))
    write_output(output, text)
    print(text)
    distributed.shutdown()
