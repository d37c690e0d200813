"""Run the last step of a diverged run again, from its capsule.

python scripts/replay.py runs/seq128/diverged/step_24
python scripts/replay.py runs/seq128/diverged/step_24 --rank 3 --rows 10
python scripts/replay.py runs/seq128/diverged/step_24 --model runs/seq128/checkpoints/step_20/hf
"""

from ds_bert.commands.parser import new_parser


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line, run the capsule's micro-batches and print what is found."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("capsule", metavar="CAPSULE", help="folder that the run has named")
    add("--model", help="Hugging Face folder of other weights; default: the capsule's")
    add("--rank", type=int, action="append", help="only this rank's micro-batches")
    add("--rows", type=int, default=3, help="rows of a micro-batch to show, default %(default)s")
    add("--cpu", action="store_true", help="do not use a GPU")
    options = parser.parse_args(argv)
    from ds_bert import distributed  # after parsing: torch takes seconds to import
    from ds_bert.divergence.replay import replay

    try:
        for line in replay(options.capsule, options.model, options.rank, options.rows, options.cpu):
            print(line, flush=True)
    finally:
        distributed.shutdown()
