"""Score a model on a task of your own: fine-tunes it with several seeds, prints one JSON object.

python scripts/score.py --checkpoint runs/a --task pairs --train_file a.csv --test_file b.csv
python scripts/score.py ... --untrained                 (beside random weights)
python scripts/score.py ... --compare runs/another      (beside another model)
python scripts/score.py ... --task pairs --train_file hf:OWNER/NAME --test_file hf:OWNER/NAME

Tables, data sets, and what is computed: docs/scoring.md.
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
