"""Export a run's model as a Hugging Face folder, reloaded and compared before it appears.

python scripts/export_hf.py --checkpoint runs/seq512 --output_dir models/my-bert
"""

from ds_bert.commands.parser import new_parser


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line, export and say what was found."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("--checkpoint", required=True, help="run folder, checkpoint or model folder of ds_bert")
    add("--output_dir", required=True, help="where the model folder goes")
    add("--overwrite", action="store_true", help="replace a model folder that is there")
    add("--data", help="data set to check with; default: the run's validation data")
    add("--text", help="text file to compare tokenizers on; default: the sentences of the data")
    values = vars(parser.parse_args(argv))
    from ds_bert.exporting.job import ExportOptions, export  # after parsing: torch takes seconds

    for title, line in export(ExportOptions(**values)):
        print(f"{title:>12}: {line}")
