"""Evaluate a model: figures with intervals; prints one JSON object.

python ds_bert/evaluate.py                                  (the newest run)
python ds_bert/evaluate.py --checkpoint runs/seq128 --data data/validation --format table
python ds_bert/evaluate.py --checkpoint some/hugging/face/bert --only_mlm
python ds_bert/evaluate.py --checkpoint runs/b --compare runs/a     (is b better?)

Command lines of google-research/bert and Hugging Face: docs/coming-from.md.
"""

import sys
from argparse import SUPPRESS
from pathlib import Path
from typing import Any

from ds_bert import files
from ds_bert.commands.parser import Parser, new_parser
from ds_bert.config import LAST, WEIGHTS
from ds_bert.dialects.command_line import is_foreign
from ds_bert.errors import ConfigurationError, require

JSON, TABLE = "json", "table"


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line, evaluate and print the metrics on rank 0."""
    arguments, command = parse(sys.argv[1:] if argv is None else argv, prog)
    output, layout = arguments.pop("output", None), arguments.pop("format", JSON)
    check_output(output)
    from ds_bert import distributed  # after parsing: torch takes seconds to import
    from ds_bert.evaluation.saved_model import evaluate_path

    metrics = evaluate_path(**arguments)
    if distributed.rank() == 0:
        show(metrics, layout, output)
        if command is not None:
            from ds_bert.dialects import results

            results.write(command, metrics)
    distributed.shutdown()  # not after an error: other ranks may stand in a collective


def show(metrics: dict[str, Any], layout: str, output: str | None) -> None:
    """Print what was asked for; on a terminal a table as well, beside the JSON on stdout.

    Raises:
        ConfigurationError: the output cannot be written.
    """
    from ds_bert.evaluation.table import as_table

    text = files.as_json(metrics)
    write_output(output, text)
    print(as_table(metrics) if layout == TABLE else text)
    if layout == JSON and sys.stderr.isatty():
        print(as_table(metrics), file=sys.stderr)


def check_output(output: str | None) -> None:
    """Refuse, before any work, a file that cannot be written.

    Raises:
        ConfigurationError: what is in its way.
    """
    if output is not None:
        files.require_folder(Path(output).parent, "output")
        require(not Path(output).is_dir(), "output", output, "the name of a file, not of a folder")


def write_output(output: str | None, text: str) -> None:
    """Write a record into the file that the user named, if any.

    Raises:
        ConfigurationError: it cannot be written.
    """
    if output is None:
        return
    try:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        files.write_text(Path(output), text + "\n")
    except OSError as error:
        raise ConfigurationError(
            f"--output {output}: cannot be written ({error.strerror}); choose another file"
        ) from None


def parse(argv: list[str], prog: str | None = None) -> tuple[dict[str, Any], Any]:
    """Arguments of `evaluate_path`, and the command line of another system where it is one."""
    parser = make_parser(prog)
    own = {name.lstrip("-") for name in parser.flags}
    command = None
    if is_foreign(argv, own):
        from ds_bert.dialects import translate

        command = translate.foreign(translate.TRAIN, argv, own)
        assert command is not None
        parser.set_defaults(**translate.evaluation(command))
    values = vars(parser.parse_args(argv if command is None else command.rest))
    del values["local_rank"]
    values["path"], values["batch_size"] = values.pop("checkpoint"), values.pop("eval_batch_size")
    values["max_sequences"] = values.pop("max_eval_sequences")
    return values, command


def make_parser(prog: str | None = None) -> Parser:
    """The parser of the command line."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("--checkpoint", help="run folder, checkpoint or Hugging Face BERT; default: the newest run")
    add("--data", help="data set; default: the run's validation data, else data/validation")
    add("--max_seq_length", type=int, help="tokens; default: the run's, else the data's longest")
    add(
        "--only_mlm", action="store_true", help="no next-sentence metrics (models without NSP head)"
    )
    add("--eval_batch_size", type=int, default=32, help="sequences per forward pass and rank")
    add("--weights", choices=WEIGHTS, default=LAST, help="of the last step, or their average")
    add("--max_eval_sequences", type=int, default=0, help="at most this many; 0: all")
    add(
        "--compare", default=SUPPRESS, metavar="CHECKPOINT", help="another model, on the same masks"
    )
    for name, what in (
        ("pseudo_perplexity", "hide each token in turn, in so many sentences; default: none"),
        ("fill_mask", "show the guesses for a hidden word in so many sentences; default: none"),
    ):
        add(f"--{name}", default=SUPPRESS, type=int, metavar="N", help=what)
    add("--format", default=SUPPRESS, choices=(JSON, TABLE), help="on stdout; default: json")
    add("--output", default=SUPPRESS, metavar="FILE", help="write the JSON there as well")
    add("--local_rank", "--local-rank", type=int, default=-1, help="set by the launcher")
    return parser
