r"""Average the weights of several checkpoints into one model, a Hugging Face folder.

python scripts/average_checkpoints.py --checkpoint runs/seq512 --last 5 --output_dir models/average
python scripts/average_checkpoints.py --checkpoint runs/a/checkpoints/step_900 \
    runs/a/checkpoints/step_1000 --output_dir models/average

The result is evaluated and exported like a checkpoint.
"""

from ds_bert.commands.parser import new_parser


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line, average and say what was found."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add(
        "--checkpoint",
        nargs="+",
        dest="paths",
        required=True,
        metavar="CHECKPOINT",
        help="checkpoints, runs (the newest of each) or model folders; one run with --last",
    )
    add("--last", type=int, metavar="N", help="the newest N checkpoints of the run")
    add("--output_dir", required=True, help="where the model folder goes")
    add("--overwrite", action="store_true", help="replace a model folder that is there")
    add("--data", help="data set to check the result with; default: the run's validation data")
    values = vars(parser.parse_args(argv))
    from ds_bert.exporting.average import average  # after parsing: torch takes seconds

    for title, line in average(**values):
        print(f"{title:>12}: {line}")
