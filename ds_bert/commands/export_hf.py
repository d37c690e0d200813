r"""Export a run's model as a Hugging Face folder, reloaded and compared before it appears.

python scripts/export_hf.py --checkpoint runs/seq512 --output_dir models/my-bert
python scripts/export_hf.py --checkpoint runs/seq512 --output_dir models/my-bert \
    --sentence_transformers --onnx --language en --license apache-2.0 --metrics metrics.json
python scripts/export_hf.py --checkpoint runs/seq512 --output_dir models/my-bert \
    --push_to_hub me/my-bert
"""

from ds_bert.commands.parser import Parser, new_parser
from ds_bert.config import LAST, WEIGHTS


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line, export and say what was found."""
    values = vars(make_parser(prog).parse_args(argv))
    from ds_bert.exporting.job import ExportOptions, export  # after parsing: torch takes seconds

    for title, line in export(ExportOptions(**values)):
        print(f"{title:>12}: {line}")


def make_parser(prog: str | None = None) -> Parser:
    """The parser of the command line."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("--checkpoint", required=True, help="run folder, checkpoint or model folder of ds_bert")
    add("--output_dir", required=True, help="where the model folder goes")
    add("--overwrite", action="store_true", help="replace a model folder that is there")
    add("--data", help="data set to check with; default: the run's validation data")
    add("--text", help="text file to compare tokenizers on; default: the sentences of the data")
    add("--weights", choices=WEIGHTS, default=LAST, help="of the last step, or their average")
    add("--sentence_transformers", action="store_true", help="add its files: mean of hidden states")
    add("--onnx", action="store_true", help='add onnx/model.onnx (pip install "ds_bert[onnx]")')
    add("--language", nargs="+", metavar="CODE", help="for the model card: en, de, ...")
    add("--license", help="for the model card: apache-2.0, cc-by-4.0, ...; default: not stated")
    add("--metrics", metavar="FILE", help="for the model card: what ds-bert evaluate printed")
    add(
        "--push_to_hub",
        metavar="OWNER/NAME",
        help="upload it, to main and to a branch step_N; a new repository is private",
    )
    add("--public", action="store_true", help="a new repository can be seen by all")
    return parser
