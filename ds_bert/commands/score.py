"""Score a model on a task of your own: fine-tunes it with several seeds, prints one JSON object.

python scripts/score.py --checkpoint runs/a --task pairs --train_file a.csv --test_file b.csv
python scripts/score.py ... --untrained                 (beside random weights)
python scripts/score.py ... --compare runs/another      (beside another model)
python scripts/score.py ... --task pairs --train_file hf:OWNER/NAME --test_file hf:OWNER/NAME
python scripts/score.py --checkpoint runs/a --watch ... (each checkpoint as it appears)

Tables, data sets, and what is computed: docs/scoring.md.
"""

from ds_bert import files
from ds_bert.commands.evaluate import check_output, write_output
from ds_bert.commands.parser import add_flags, new_parser
from ds_bert.errors import ConfigurationError
from ds_bert.scoring.options import ScoreOptions, WatchOptions


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line, score and print the record."""
    parser = new_parser(__doc__, prog)
    add_flags(parser, ScoreOptions)
    parser.add_argument("--output", metavar="FILE", help="write the JSON there as well")
    parser.add_argument(
        "--watch", action="store_true", help="score the checkpoints of a run, while it goes on too"
    )
    add_flags(parser, WatchOptions)
    values = vars(parser.parse_args(argv))
    output, is_watching = values.pop("output"), values.pop("watch")
    names = WatchOptions.__dataclass_fields__
    how = {name: values.pop(name) for name in names if name in values}
    options = ScoreOptions(**values)
    if is_watching:
        _watch(options, WatchOptions(**how), output)
        return
    if how:
        raise ConfigurationError(f"{min(how)}: found without --watch, expected both or none")
    check_output(output)
    from ds_bert import distributed  # after parsing: torch takes seconds to import
    from ds_bert.scoring.job import score

    text = files.as_json(score(options))
    write_output(output, text)
    print(text)
    distributed.shutdown()


def _watch(options: ScoreOptions, how: WatchOptions, output: str | None) -> None:
    if output is not None:
        raise ConfigurationError(
            f"output: found {output} with --watch, expected none: rows go into scores.jsonl in "
            "the folder of the run"
        )
    from ds_bert import distributed
    from ds_bert.guards.signals import stop_signals
    from ds_bert.scoring.job import Scorer
    from ds_bert.scoring.watch import Watcher, print_row, watched_run

    run = watched_run(options)
    with stop_signals(_interrupt):
        Watcher(run, how, Scorer(options), options.untrained, print_row).watch()
    distributed.shutdown()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
