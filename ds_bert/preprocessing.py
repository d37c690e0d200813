"""From text files to finished data sets: the road of scripts/preprocess.py.

Text is tokenized once, in blocks on threads; instances of every length point into the tokens. All
is written beside the final place and renamed when it is complete.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert import corpus, unicode_tables
from ds_bert.errors import ConfigurationError, DataError
from ds_bert.inputs import Input, find_inputs
from ds_bert.instance_writer import write_instances
from ds_bert.output_folder import OutputFolder
from ds_bert.parallel import ordered_map, progress_bar
from ds_bert.preprocess_options import TRAIN, VALIDATION, PreprocessOptions
from ds_bert.random_streams import SPLIT, keys
from ds_bert.store import FORMAT, META, VERSION, Documents, read_meta
from ds_bert.store_writer import DocumentRun, StoreWriter, encoded_run, selected_runs
from ds_bert.vocabulary import Vocabulary
from ds_bert.wordpiece import WordPieceTokenizer

MIN_DOCUMENTS = 2  # the random next sentence comes from another document


class DataSet(NamedTuple):
    """A data set that was made or found.

    Attributes:
        folder: where it is.
        meta: content of its meta.json.
    """

    folder: Path
    meta: dict[str, Any]


class Result(NamedTuple):
    """What preprocessing has done.

    Attributes:
        data_sets: by part, "train" and perhaps "validation".
        is_new: whether they were made now; otherwise they were there already.
        vocabulary: the vocabulary.
    """

    data_sets: dict[str, DataSet]
    is_new: bool
    vocabulary: Vocabulary


def preprocess(options: PreprocessOptions) -> Result:
    """Make the data sets, or find that they exist.

    The bytes written depend on the text and the options only, not on the number of workers.

    Raises:
        ConfigurationError: an output folder is in use, not writable, or holds something else.
        DataError: input or vocabulary is unusable.
    """
    inputs = find_inputs(options.input_file)
    vocabulary = Vocabulary.read(options.vocab_file)
    facts = _facts(options, inputs, vocabulary)
    fingerprints = {part: options.fingerprint(part, facts) for part in options.folders}
    found = _existing(options, fingerprints)
    if found is not None:
        return Result(found, False, vocabulary)
    _check_disk(options, sum(record["bytes"] for record in facts["inputs"]))
    try:
        _make(options, inputs, vocabulary, facts, fingerprints)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {options.output_dir}: {error.strerror or error}; no half data set was "
            "left; mend the cause and run the same command again"
        ) from error
    made = {part: DataSet(path, read_meta(path)) for part, path in options.folders.items()}
    return Result(made, True, vocabulary)


def _facts(
    options: PreprocessOptions, inputs: list[Input], vocabulary: Vocabulary
) -> dict[str, Any]:
    tables = unicode_tables.load()
    return {
        "mode": options.mode,
        "do_lower_case": options.do_lower_case,
        "vocabulary": {"sha256": vocabulary.sha256, "size": vocabulary.size},
        "unicode": {"version": tables.version, "sha256": tables.sha256},
        "inputs": [source.describe() for source in inputs],
    }


def _existing(
    options: PreprocessOptions, fingerprints: dict[str, str]
) -> dict[str, DataSet] | None:
    """The data sets if all of them are there already; refuses to touch anything else."""
    found = {}
    for part, folder in options.folders.items():
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            continue
        if not (folder / META).is_file():
            raise ConfigurationError(
                f"{folder} exists and is not a data set, so it is left alone; "
                "choose another output folder"
            )
        meta = read_meta(folder)
        if meta.get("fingerprint") == fingerprints[part]:
            found[part] = DataSet(folder, meta)
        elif not options.overwrite:
            raise ConfigurationError(
                f"{folder} holds a data set made from other text or options; replace it with "
                "--overwrite or choose another output folder"
            )
    return found if len(found) == len(options.folders) else None


def _check_disk(options: PreprocessOptions, input_bytes: int) -> None:
    """Refuse to start what will surely not fit."""
    needed = options.estimated_bytes(input_bytes)
    place = Path(options.output_dir).absolute().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ConfigurationError(
            f"about {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free on the disk "
            f"of {options.output_dir}; make room, or choose another --output_dir"
        )


def _make(
    options: PreprocessOptions,
    inputs: list[Input],
    vocabulary: Vocabulary,
    facts: dict[str, Any],
    fingerprints: dict[str, str],
) -> None:
    with ExitStack() as stack:
        outputs = {
            part: stack.enter_context(OutputFolder(folder))
            for part, folder in options.folders.items()
        }
        _write(options, inputs, vocabulary, facts, fingerprints, outputs)
        for part in reversed(outputs):  # training data last: where they are, the others are too
            outputs[part].publish()


def _write(
    options: PreprocessOptions,
    inputs: list[Input],
    vocabulary: Vocabulary,
    facts: dict[str, Any],
    fingerprints: dict[str, str],
    outputs: dict[str, OutputFolder],
) -> None:
    tokenizer = WordPieceTokenizer(vocabulary, options.do_lower_case)
    statistics = {"words": 0, "unknown_words": 0, "invalid_bytes": 0}
    runs = _tokenized(options, inputs, tokenizer, statistics)
    stores = {part: StoreWriter(output.folder, vocabulary) for part, output in outputs.items()}
    if VALIDATION not in stores:
        documents = {TRAIN: stores[TRAIN].write_documents(runs)}
        _check_documents(options, stores[TRAIN].counts)
    else:
        documents = _split(options, stores, runs)
    for part, store in stores.items():
        for length in options.instance_options(part):
            write_instances(store, documents[part], length, options.num_workers)
        store.finish(
            {
                "format": FORMAT,
                "version": VERSION,
                "fingerprint": fingerprints[part],
                "part": part,
                "validation_fraction": options.fraction,
                **facts,
                "statistics": statistics,
            }
        )


def _tokenized(
    options: PreprocessOptions,
    inputs: list[Input],
    tokenizer: WordPieceTokenizer,
    statistics: dict[str, int],
) -> Iterator[DocumentRun]:
    """The documents of the input; adds up `statistics` on the way."""
    blocks = corpus.read_blocks(
        inputs, join_files=options.mode == "exact", block_bytes=options.block_bytes
    )
    num_bytes = sum(source.num_bytes for source in inputs)
    with progress_bar("tokens", num_bytes, "B") as bar:
        for text, num_bytes in ordered_map(
            lambda block: (tokenizer.encode(block), len(block)), blocks, options.num_workers
        ):
            if text.num_invalid_bytes and options.errors == "strict":
                raise corpus.invalid_utf8(inputs)
            statistics["words"] += text.num_words
            statistics["unknown_words"] += text.num_unknown
            statistics["invalid_bytes"] += text.num_invalid_bytes
            bar.update(num_bytes)
            yield encoded_run(text)


def _split(
    options: PreprocessOptions, stores: dict[str, StoreWriter], runs: Iterator[DocumentRun]
) -> dict[str, Documents]:
    """Write the documents of both parts; which one goes where needs the number of all of them."""
    train = stores[TRAIN]
    whole = StoreWriter(train.folder / "whole", train.vocabulary)
    documents = whole.write_documents(runs)
    _check_documents(options, whole.counts)
    is_validation = _validation_documents(options, whole.counts["documents"])
    parts = {TRAIN: np.flatnonzero(~is_validation), VALIDATION: np.flatnonzero(is_validation)}
    written = {
        part: stores[part].write_documents(selected_runs(documents, numbers))
        for part, numbers in parts.items()
    }
    shutil.rmtree(whole.folder)
    return written


def _validation_documents(options: PreprocessOptions, num_documents: int) -> NDArray[np.bool_]:
    """Whether each document is one of those with the smallest hashes, bool [D]."""
    wanted = max(MIN_DOCUMENTS, round(options.fraction * num_documents))
    if num_documents - wanted < MIN_DOCUMENTS:
        raise DataError(
            f"{num_documents} documents cannot be divided into training and validation data, each "
            f"needs {MIN_DOCUMENTS}; give more text with blank lines between documents, or use "
            "--validation_fraction 0"
        )
    order = np.argsort(keys(options.random_seed, SPLIT, 0, num_documents), kind="stable")
    chosen = np.zeros(num_documents, bool)
    chosen[order[:wanted]] = True
    return chosen


def _check_documents(options: PreprocessOptions, counts: dict[str, int]) -> None:
    if counts["tokens"] == 0:
        raise DataError(
            f"no text in {', '.join(options.input_file)}; expected one sentence on each line and a "
            "blank line between documents"
        )
    if options.mode == "fast" and counts["documents"] < MIN_DOCUMENTS:
        raise DataError(
            "the input is a single document, so there is no other one to take a random next "
            "sentence from; put blank lines between documents, or use --mode exact to go on"
        )
