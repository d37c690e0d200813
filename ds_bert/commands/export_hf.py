"""Copy the newest good checkpoint of a run to a Hugging Face model folder.

python scripts/export_hf.py --checkpoint runs/seq512 --output_dir models/my-bert
"""

from ds_bert.commands.parser import new_parser


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line, export and say what was done."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("--checkpoint", required=True, help="run folder or checkpoint")
    add("--output_dir", required=True, help="where the model folder goes")
    add("--overwrite", action="store_true", help="replace a model folder that is there")
    options = parser.parse_args(argv)
    from ds_bert.checkpoint.hf_folder import export_model  # after parsing: torch takes seconds

    source = export_model(options.checkpoint, options.output_dir, options.overwrite)
    print(f"{source} -> {options.output_dir}")
