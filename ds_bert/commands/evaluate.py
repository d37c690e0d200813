"""Evaluate a model; prints one JSON object.

python ds_bert/evaluate.py                                  (the newest run)
python ds_bert/evaluate.py --checkpoint runs/seq128 --data data/validation
python ds_bert/evaluate.py --checkpoint some/hugging/face/bert --only_mlm
"""

import argparse

from ds_bert import files
from ds_bert.commands.parser import new_parser


def parse(argv: list[str] | None, prog: str | None = None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("--checkpoint", help="run folder, checkpoint or Hugging Face BERT; default: the newest run")
    add("--data", help="data set; default: the run's validation data, else data/validation")
    add("--max_seq_length", type=int, help="tokens; default: the run's, else the data's longest")
    add(
        "--only_mlm", action="store_true", help="no next-sentence metrics (models without NSP head)"
    )
    add("--eval_batch_size", type=int, default=32, help="sequences per forward pass and rank")
    add("--max_eval_sequences", type=int, default=0, help="at most this many; 0: all")
    add("--local_rank", type=int, default=-1, help="set by the launcher")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line, evaluate and print the metrics on rank 0."""
    options = parse(argv, prog)
    from ds_bert import distributed  # after parsing: torch takes seconds to import
    from ds_bert.evaluation.saved_model import evaluate_path

    metrics = evaluate_path(
        options.checkpoint,
        options.data,
        options.max_seq_length,
        only_mlm=options.only_mlm,
        batch_size=options.eval_batch_size,
        max_sequences=options.max_eval_sequences,
    )
    if distributed.rank() == 0:
        print(files.as_json(metrics))
    distributed.shutdown()  # not after an error: other ranks may stand in a collective
