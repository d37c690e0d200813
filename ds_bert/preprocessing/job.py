"""From text files to finished data sets: the road of scripts/preprocess.py.

Text is tokenized once, in blocks on threads; instances of every length point into the tokens.
`ds_bert.dataset.writer` lets the data sets of both parts appear whole, and goes on after a kill.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ds_bert.dataset.commit import Target
from ds_bert.dataset.format import Corpus, neighbours
from ds_bert.dataset.store import read_meta
from ds_bert.dataset.store_writer import StoreWriter
from ds_bert.dataset.writer import write_data_sets
from ds_bert.preprocessing.documents import write_documents
from ds_bert.preprocessing.estimate import estimate
from ds_bert.preprocessing.figures import write_report
from ds_bert.preprocessing.instances import write_instances
from ds_bert.preprocessing.options import PreprocessOptions
from ds_bert.text.inputs import TextCorpus
from ds_bert.text.watch import WatchedInputs
from ds_bert.tokenizer import unicode_tables
from ds_bert.tokenizer.vocabulary import Vocabulary
from ds_bert.tokenizer.wordpiece import WordPieceTokenizer


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


def preprocess(
    options: PreprocessOptions, say: Callable[[str], object] = lambda line: None
) -> Result | None:
    """Make the data sets, go on with unfinished ones, or find that they exist.

    The bytes written depend on the text and the options only: not on the number of workers, nor on
    how often the work was interrupted.

    Args:
        options: of the user.
        say: gets lines that tell what will be done.

    Returns:
        what was done; None after a dry run.

    Raises:
        ConfigurationError: an output folder is in use, not writable, or holds something else.
        DataError: input or vocabulary is unusable.
    """
    corpora = options.find_corpora()
    inputs = [source for corpus in corpora for source in corpus.inputs]
    vocabulary = Vocabulary.read(options.vocab_file)
    tokenizer = WordPieceTokenizer(vocabulary, options.do_lower_case)
    size = estimate(options, inputs, tokenizer)
    say(str(size))
    if options.dry_run:
        return None
    watched = WatchedInputs(inputs)
    facts = _facts(options, watched, vocabulary, corpora)
    is_new = write_data_sets(
        {
            part: Target(folder, options.fingerprint(part, facts))
            for part, folder in options.folders.items()
        },
        vocabulary,
        partial(_write, options, watched, tokenizer, facts, corpora),
        overwrite=options.overwrite,
        needs=size.needs,
        say=say,
    )
    made = {part: DataSet(path, read_meta(path)) for part, path in options.folders.items()}
    return Result(made, is_new, vocabulary)


def _facts(
    options: PreprocessOptions,
    inputs: WatchedInputs,
    vocabulary: Vocabulary,
    corpora: Sequence[TextCorpus],
) -> dict[str, Any]:
    tables = unicode_tables.load()
    facts = {
        "mode": options.mode,
        "do_lower_case": options.do_lower_case,
        "vocabulary": {"sha256": vocabulary.sha256, "size": vocabulary.size},
        "unicode": {"version": tables.version, "sha256": tables.sha256},
        "inputs": inputs.records,
    }
    if corpora[0].name:
        facts["corpora"] = [
            {"name": corpus.name, "weight": corpus.weight, "inputs": len(corpus.inputs)}
            for corpus in corpora
        ]
    return facts


def _write(
    options: PreprocessOptions,
    inputs: WatchedInputs,
    tokenizer: WordPieceTokenizer,
    facts: dict[str, Any],
    corpora: Sequence[TextCorpus],
    stores: dict[str, StoreWriter],
) -> None:
    """Tokenize the text once, then make the instances and the report of each part."""
    whole = neighbours(
        [Corpus(corpus.name, corpus.weight, 0, 0) for corpus in corpora],
        [len(corpus.inputs) for corpus in corpora],
    )
    written = write_documents(options, inputs, whole, tokenizer, stores)
    for part, store in stores.items():
        documents = store.documents()
        named = [corpus for corpus in written.corpora[part] if corpus.name]
        for length in options.instance_options(part):
            write_instances(store, documents, length, options.num_workers, named)
        about = {"part": part, "validation_fraction": options.fraction}
        report = write_report(store, documents, part, options.num_workers, named)
        store.finish({**about, **facts, "statistics": written.statistics, "report": report})
