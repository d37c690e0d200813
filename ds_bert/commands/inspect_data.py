"""Look at a data set that scripts/preprocess.py made.

python scripts/inspect_data.py data/train
python scripts/inspect_data.py data/train --max_seq_length 512 --limit 3
python scripts/inspect_data.py data/train --format jsonl              (all instances)
python scripts/inspect_data.py data/train --verify                    (reads every byte)
python scripts/inspect_data.py data/train --report                    (figures of the corpus)
"""

import argparse
import sys
from collections.abc import Iterator

from ds_bert.commands.parser import new_parser
from ds_bert.dataset.store import TokenStore, stored_report
from ds_bert.reports.corpus import report_text


def parse(argv: list[str] | None, prog: str | None = None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="folder of the data set")
    add("--max_seq_length", type=int, help="which instances; default: the shortest length")
    add("--limit", type=int, help="instances to show, 0: all; default 10 as text, all as jsonl")
    add("--format", choices=("text", "jsonl"), default="text", help="default text")
    add("--verify", action="store_true", help="check every checksum and number instead")
    add("--report", action="store_true", help="show the corpus report instead")
    return parser.parse_args(argv)


def lines(store: TokenStore, options: argparse.Namespace) -> Iterator[str]:
    """What to print."""
    if options.report:
        yield report_text(stored_report(store))
        return
    from ds_bert.instances.examples import as_json, as_text, examples

    table = store.instances(options.max_seq_length or store.sequence_lengths[0])
    is_text = options.format == "text"
    only_ascii = not sys.stdout.encoding.lower().startswith("utf")
    limit = options.limit if options.limit is not None else 10 * is_text
    for number, example in enumerate(examples(table, limit or None)):
        if is_text:
            yield f"#{number}: {as_text(example, table.options.objective)}"
        else:
            yield as_json(example, only_ascii)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and print; returns the exit code."""
    options = parse(argv, prog)
    from ds_bert.dataset.verify import verify  # after parsing: numba takes half a second

    store = TokenStore.open(options.dataset)
    if options.verify:
        print(f"{options.dataset}: {verify(store)} files checked, all sound")
        return 0
    for line in lines(store, options):
        print(line)
    return 0
