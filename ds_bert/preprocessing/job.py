"""From text files to finished data sets: the road of scripts/preprocess.py.

Text is tokenized once, in blocks on threads; instances of every length point into the tokens. All
is written beside the final place and renamed when it is complete. A journal says how far it is, so
a killed run is gone on with.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ds_bert.dataset.format import FORMAT, META, VERSION
from ds_bert.dataset.journal import Journal, Stage
from ds_bert.dataset.store import read_meta
from ds_bert.dataset.writer import StoreWriter
from ds_bert.errors import ConfigurationError, DataError
from ds_bert.files import OutputFolder
from ds_bert.preprocessing.documents import write_documents
from ds_bert.preprocessing.estimate import Estimate, check_disk, estimate
from ds_bert.preprocessing.figures import write_report
from ds_bert.preprocessing.instances import write_instances
from ds_bert.preprocessing.options import TRAIN, PreprocessOptions
from ds_bert.text.source import Input
from ds_bert.tokenizer import unicode_tables
from ds_bert.tokenizer.vocabulary import Vocabulary
from ds_bert.tokenizer.wordpiece import WordPieceTokenizer

JOURNAL = "progress.json"  # in the hidden folder of the training data
FINISH = "finish"  # the last stage of each part


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


class _Job(NamedTuple):
    """All that is known before the work begins.

    Attributes:
        options: of the user.
        inputs: the text.
        tokenizer: with the vocabulary.
        facts: what meta.json says about them.
        fingerprints: of each part.
        estimate: what it takes.
    """

    options: PreprocessOptions
    inputs: list[Input]
    tokenizer: WordPieceTokenizer
    facts: dict[str, Any]
    fingerprints: dict[str, str]
    estimate: Estimate


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
    inputs = options.find_inputs()
    vocabulary = Vocabulary.read(options.vocab_file)
    tokenizer = WordPieceTokenizer(vocabulary, options.do_lower_case)
    size = estimate(options, inputs, tokenizer)
    say(str(size))
    if options.dry_run:
        return None
    facts = _facts(options, inputs, vocabulary)
    fingerprints = {part: options.fingerprint(part, facts) for part in options.folders}
    job = _Job(options, inputs, tokenizer, facts, fingerprints, size)
    found = _existing(options, fingerprints)
    is_new = len(found) < len(options.folders)
    if is_new:
        _make(job, found, say)
    else:
        _tidy(job)
    made = {part: DataSet(path, read_meta(path)) for part, path in options.folders.items()}
    return Result(made, is_new, vocabulary)


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


def _existing(options: PreprocessOptions, fingerprints: dict[str, str]) -> set[str]:
    """The parts that are there already; refuses to touch anything else."""
    found = set()
    for part, folder in options.folders.items():
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            continue
        if not (folder / META).is_file():
            raise ConfigurationError(
                f"{folder} exists and is not a data set, so it is left alone; "
                "choose another output folder"
            )
        if read_meta(folder).get("fingerprint") == fingerprints[part]:
            found.add(part)
        elif not options.overwrite:
            raise ConfigurationError(
                f"{folder} holds a data set made from other text or options; replace it with "
                "--overwrite or choose another output folder"
            )
    return found


def _make(job: _Job, found: set[str], say: Callable[[str], object]) -> None:
    with ExitStack() as stack:
        try:
            outputs = {
                part: stack.enter_context(OutputFolder(folder, keep=True))
                for part, folder in job.options.folders.items()
            }
            journal = _open_journal(job, found, outputs, say)
            _write(job, journal, outputs)
            for part in reversed(outputs):  # training data last: where they are, the others are too
                if part not in found:
                    outputs[part].publish()
                outputs[part].discard()
        except DataError:
            for output in outputs.values():
                output.discard()
            raise
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {job.options.output_dir}: {error.strerror or error}; mend the cause "
                "and run the same command again, it goes on where it was"
            ) from error
        except KeyboardInterrupt:
            say("stopped; run the same command again to go on")
            raise


def _open_journal(
    job: _Job, found: set[str], outputs: dict[str, OutputFolder], say: Callable[[str], object]
) -> Journal:
    """The journal of this job, new if there is none; refuses that of another."""
    path, identity = outputs[TRAIN].hidden / JOURNAL, _identity(job)
    recorded = Journal.identity(path)
    if recorded is not None and recorded != identity and not job.options.overwrite:
        raise ConfigurationError(
            f"{path.parent} holds an unfinished data set made from other text or options; go on "
            "with it by its own command, discard it with --overwrite, or choose another output "
            "folder"
        )
    journal = Journal(path, identity)
    if recorded != identity or _is_lost(journal, found, outputs):
        for output in outputs.values():
            output.clear()
        journal, recorded = Journal(path, identity), None
    check_disk(job.estimate, job.options, [output.hidden for output in outputs.values()])
    if recorded == identity:
        say(f"going on after {job.estimate.share(journal.fraction):.0%}")
    return journal


def _identity(job: _Job) -> dict[str, Any]:
    places = {part: str(folder.absolute()) for part, folder in job.options.folders.items()}
    return {"fingerprints": job.fingerprints, "folders": places}


def _tidy(job: _Job) -> None:
    """Remove what is left of a run that was killed after its last rename."""
    outputs = [OutputFolder(folder) for folder in job.options.folders.values()]
    if Journal.identity(outputs[0].hidden / JOURNAL) == _identity(job):
        for output in outputs:
            with output:
                pass


def _is_lost(journal: Journal, found: set[str], outputs: dict[str, OutputFolder]) -> bool:
    """Whether a part was finished and is neither in its final place nor where it was written."""
    return any(
        journal.is_done(f"{part}/{FINISH}")
        and part not in found
        and not (output.folder / META).exists()
        for part, output in outputs.items()
    )


def _write(job: _Job, journal: Journal, outputs: dict[str, OutputFolder]) -> None:
    if all(journal.is_done(f"{part}/{FINISH}") for part in outputs):
        return  # only publishing is left; some parts may be in their final places
    options, vocabulary = job.options, job.tokenizer.vocabulary
    stores = {
        part: StoreWriter(part, output.folder, vocabulary, journal)
        for part, output in outputs.items()
    }
    statistics = write_documents(options, job.inputs, job.tokenizer, stores)
    for part, store in stores.items():
        documents = store.documents()
        for length in options.instance_options(part):
            write_instances(store, documents, length, options.num_workers)
        facts = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": job.fingerprints[part],
            "part": part,
            "validation_fraction": options.fraction,
            **job.facts,
            "statistics": statistics,
        }
        store.run(FINISH, partial(_finish, store, facts, options.num_workers))


def _finish(store: StoreWriter, facts: dict[str, Any], num_workers: int, stage: Stage) -> None:
    report = write_report(store, store.documents(), facts["part"], num_workers)
    store.finish({**facts, "report": report})
