"""Go the whole road: vocabulary, data, two phases, evaluation, score, Hugging Face model.

python scripts/pretrain.py --input_file text.txt --hours 8 --output_dir runs/mine
python scripts/pretrain.py plan.json
python scripts/pretrain.py plan.json --num_gpus 8
python scripts/pretrain.py plan.json --restart_from phase_2

Without a plan the advisor makes one, which is kept in the output folder as plan.json. Given again,
the command goes on: what is done is skipped, what was interrupted resumed. Plans: docs/pretrain.md.
"""

import argparse

from ds_bert.commands.parser import new_parser
from ds_bert.pipeline.options import STAGES

OUTPUT_DIR = "runs/pretrain"


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and go the road; returns the exit code."""
    options = _parse(argv, prog)
    from ds_bert.pipeline.dry_run import dry_run
    from ds_bert.pipeline.job import pretrain
    from ds_bert.pipeline.plan_file import find_plan
    from ds_bert.pipeline.process import check_launch

    flags = {name: getattr(options, name) for name in ("input_file", "hours", "output_dir")}
    plan = find_plan(options.plan, OUTPUT_DIR, options.language, flags)
    launch = check_launch(options.hostfile, options.num_gpus)
    if options.dry_run:
        return dry_run(plan)
    return pretrain(plan, launch, options.restart_from)


def _parse(argv: list[str] | None, prog: str | None) -> argparse.Namespace:
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("plan", nargs="?", help="JSON file; flags beside it take the place of its keys")
    add("--input_file", nargs="+", help="text: all that ds-bert preprocess takes")
    add("--hours", type=float, help="that all stages together may take")
    add("--output_dir", help=f"where all is written; without a plan default {OUTPUT_DIR}")
    add("--language", help="without a plan: of the text, ISO 639: en, pt, ...; default: not said")
    add("--num_gpus", type=int, metavar="N", help="processes of training; default: all GPUs here")
    add("--hostfile", help="train on these hosts, as ds-bert launch does")
    add("--restart_from", metavar="STAGE", choices=STAGES, help="do this and what follows again")
    add("--dry_run", action="store_true", help="print stages and hours, and stop")
    return parser.parse_args(argv)
