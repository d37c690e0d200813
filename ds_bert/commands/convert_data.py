r"""Convert finished instances of other programs to a data set, and data sets to their files.

python scripts/convert_data.py --from tfrecord --input_file 'wiki/*.tfrecord' --output_dir data/wiki
python scripts/convert_data.py --to tfrecord --input_file data/train --max_seq_length 128 \
    --output_file out/0.tfrecord,out/1.tfrecord
python scripts/convert_data.py --from hdf5 --to jsonl --input_file x.hdf5 --output_file x.jsonl.gz
python scripts/convert_data.py --to text --input_file data/train --output_file train.txt

Instances keep masks, labels and order. docs/bridges.md describes the formats. Without --to a data
set is made; after a kill the same command goes on where it was.
"""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ds_bert.commands.parser import add_negation, new_parser
from ds_bert.dataset.options import OBJECTIVES
from ds_bert.errors import ConfigurationError

if TYPE_CHECKING:
    from ds_bert.bridges.importing import Imported

_FROM = ("tfrecord", "hdf5", "jsonl", "datasets", "text")
_TO = ("tfrecord", "hdf5", "hdf5_variable", "jsonl", "datasets", "text")


def parse(argv: list[str] | None, prog: str | None = None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add(
        "--from", dest="source", choices=_FROM, help="what --input_file is; default: see for itself"
    )
    add("--to", dest="target", choices=_TO, help="what to write; default: a data set")
    add(
        "--input_file",
        nargs="+",
        required=True,
        metavar="FILE",
        help="a data set of ours; or files of instances, globs, folders of such files, folders of "
        "save_to_disk; comma lists",
    )
    add("--output_dir", metavar="FOLDER", help="the data set to make, or the datasets folder")
    add(
        "--output_file",
        nargs="+",
        metavar="FILE",
        help="file to write; of several, comma lists too, instance k goes into file k mod n",
    )
    vocabulary = parser.add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--vocab_file", default="data/vocab.txt", help="of the input; default %(default)s"
    )
    vocabulary.add_argument(
        "--model_name_or_path", help="take the vocabulary of this model: a folder or a hub id"
    )
    add(
        "--max_seq_length",
        type=int,
        metavar="N",
        help="of a data set: which instances; of files: tokens of the longest sequence (default: "
        "the width of padded rows, otherwise the longest of the first records)",
    )
    add(
        "--max_predictions_per_seq",
        type=int,
        metavar="N",
        help="masked tokens of a sequence at most (default: as for --max_seq_length)",
    )
    add(
        "--objective",
        choices=OBJECTIVES,
        help="what the labels of pairs mean (default: mlm+nsp, without pairs mlm)",
    )
    add(
        "--do_lower_case",
        action=argparse.BooleanOptionalAction,
        help="the text was lower-cased (default: see by the vocabulary)",
    )
    add_negation(parser, "do_lower_case")
    add("--skip_damaged", action="store_true", help="leave damaged records out, and count them")
    add("--overwrite", action="store_true", help="replace what is there")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Convert and say what was done."""
    options = parse(argv, prog)
    targets = _targets(options)
    # After parsing: numba takes half a second to import.
    from ds_bert.bridges.exporting import require_new
    from ds_bert.dataset.format import META

    folder = Path(options.input_file[0])
    is_ours = len(options.input_file) == 1 and (folder / META).is_file()
    if options.target is None:
        if is_ours:
            raise ConfigurationError(
                f"{folder} is a data set already, expected files, or --to one of {', '.join(_TO)}"
            )
        print("\n".join(_make_data_set(options, targets[0]).summary()))
        return
    require_new(targets, options.target, options.overwrite)
    if is_ours:
        _write_files(options, folder, targets, options.max_seq_length)
        return
    folder = targets[0].with_name(f".{targets[0].name}.data")  # on the way, removed afterwards
    for line in _make_data_set(options, folder).losses():
        print(line)
    _write_files(options, folder, targets, None)
    shutil.rmtree(folder)


def _targets(options: argparse.Namespace) -> list[Path]:
    given = ",".join(options.output_file or [options.output_dir or ""])
    targets = [Path(name.strip()) for name in given.split(",") if name.strip()]
    if not targets or (options.output_file and options.output_dir):
        raise ConfigurationError(
            "--output_dir and --output_file: found both or none, expected one of them; name a "
            "folder for a data set, files for another format"
        )
    return targets


def _write_files(
    options: argparse.Namespace, folder: Path, targets: list[Path], length: int | None
) -> None:
    from ds_bert.bridges.exporting import export
    from ds_bert.dataset.store import TokenStore

    store = TokenStore.open(folder)
    number = export(store, length, options.target, targets, overwrite=options.overwrite)
    what = "documents" if options.target == "text" else "instances"
    print(f"{number:,} {what}: {', '.join(map(str, targets))}")
    stored = [facts["num_stored_masks"] for facts in store.meta["lengths"].values()]
    if options.target != "text" and None in stored:
        print("masks: those of epoch 0; training on the data set draws new ones in every epoch")


def _make_data_set(options: argparse.Namespace, folder: Path) -> "Imported":
    from ds_bert.bridges.formats import find_files
    from ds_bert.bridges.importing import ImportOptions, import_data_set
    from ds_bert.tokenizer.vocabulary import Vocabulary, read_model_vocabulary

    if options.source == "text":
        raise ConfigurationError(
            "--from text: text has no instances yet; ds-bert preprocess --input_file "
            f"{' '.join(options.input_file)} makes them"
        )
    paths = find_files(options.input_file)
    if options.model_name_or_path is None:
        vocabulary = Vocabulary.read(options.vocab_file)
    else:
        vocabulary = read_model_vocabulary(options.model_name_or_path)
    how = ImportOptions(
        format=options.source,
        max_seq_length=options.max_seq_length,
        max_predictions_per_seq=options.max_predictions_per_seq,
        objective=options.objective,
        do_lower_case=options.do_lower_case,
        skip_damaged=options.skip_damaged,
    )
    return import_data_set(paths, folder, vocabulary, how, overwrite=options.overwrite, say=print)
