"""Finished instances of other programs as a data set of ours, with the masks that they have."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.bridges.formats import InstanceFile, Piece, Place, open_files
from ds_bert.bridges.instances import as_sequences
from ds_bert.dataset.options import (
    FAST,
    MIN_SEQ_LENGTH,
    MLM,
    MLM_NSP,
    NUM_SPECIAL_TOKENS,
    InstanceOptions,
)
from ds_bert.dataset.sequences import SequenceChunk
from ds_bert.dataset.store import read_meta
from ds_bert.dataset.store_writer import StoreWriter
from ds_bert.dataset.writer import write_data_set
from ds_bert.errors import DataError, SourceUnavailable
from ds_bert.preprocessing.figures import write_report
from ds_bert.preprocessing.options import PREDICTIONS_PER_128
from ds_bert.progress import Progress
from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

_VERSION = 1  # of the rules by which files are read: others make other data sets
_MULTIPLE = 8  # of which a length is that no file tells
_FEW_CASED = 0.05  # some letters of lower-cased text have a lower form all the same
_NAMED = 5  # damaged records that are named, of those left out


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How files are read; None: as their first records say.

    Attributes:
        format: of the files; None: by their content.
        max_seq_length: tokens of the longest sequence. Where records are padded, their width;
            otherwise the longest of the first ones, up to a multiple of 8.
        max_predictions_per_seq: masked tokens of a sequence at most. Likewise; where lists are not
            padded 20 per 128 tokens, if that is more.
        objective: what the labels mean; None: next sentences where there are pairs.
        do_lower_case: whether the text was lower-cased; None: if no token has a capital letter.
        skip_damaged: leave damaged records out instead of stopping at the first.
    """

    format: str | None = None
    max_seq_length: int | None = None
    max_predictions_per_seq: int | None = None
    objective: str | None = None
    do_lower_case: bool | None = None
    skip_damaged: bool = False


class Imported(NamedTuple):
    """A data set that was made or found.

    Attributes:
        folder: where it is.
        meta: content of its meta.json.
        is_new: whether it was made now.
    """

    folder: Path
    meta: dict[str, Any]
    is_new: bool

    def summary(self) -> Iterator[str]:
        """What was made, for people."""
        state = "" if self.is_new else " (was complete, nothing redone)"
        yield f"data set: {self.folder}{state}"
        for length, facts in self.meta["lengths"].items():
            number = facts["num_stored_masks"]
            masks = "masks drawn in training" if number is None else f"{number:,} masks"
            yield f"  length {length}: {facts['num_instances']:,} instances, {masks}"
        yield from self.losses()

    def losses(self) -> Iterator[str]:
        """What was left out, for people."""
        left_out = self.meta["left_out"]
        if left_out["number"]:
            yield f"left out {left_out['number']:,} damaged records, the first of them:"
            yield from (f"  {problem}" for problem in left_out["first"])


def import_data_set(
    paths: Sequence[Path],
    folder: Path,
    vocabulary: Vocabulary,
    options: ImportOptions = ImportOptions(),
    *,
    overwrite: bool = False,
    num_workers: int = 1,
    say: Callable[[str], object] = lambda line: None,
) -> Imported:
    """Make a data set of files, go on with an unfinished one, or find that it exists.

    Args:
        paths: files, all of one format; `ds_bert.bridges.formats.find_files` finds them.
        folder: where to.
        vocabulary: of the ids or tokens in the files.
        options: how to read them.
        overwrite: replace another data set in the folder.
        num_workers: threads for the report.
        say: gets lines that tell what is done.

    Raises:
        ConfigurationError: the folder is in use, not writable, or holds something else; a package
            that reads the format is not installed.
        DataError: a file is no such file, or a record is damaged; nothing is left behind.
    """
    files = open_files(paths, vocabulary, options.format)
    instance_options, has_masks = _survey(files, options)
    states = [file.state() for file in files]  # before they are read
    records = list(_described(files))
    content = {
        "import": _VERSION,
        "format": files[0].format,
        "inputs": records,
        "vocabulary": vocabulary.sha256,
        "options": instance_options.record,
        "skip_damaged": options.skip_damaged,
    }
    source = _Source(files, states, instance_options, has_masks, options.skip_damaged)
    state = {"file": 0, **Place()._asdict(), "num_left_out": 0, "left_out": []}

    def write(writer: StoreWriter) -> None:
        end = writer.write_sequences(instance_options, source, state, has_masks=has_masks)
        facts = {
            "do_lower_case": instance_options.do_lower_case,
            "format_of_inputs": files[0].format,
            "inputs": [
                {"name": _name(file.path), **record}
                for file, record in zip(files, records, strict=True)
            ],
            "left_out": {"number": end["num_left_out"], "first": end["left_out"]},
        }
        report = write_report(writer, writer.documents(), "imported", num_workers)
        writer.finish({**facts, "report": report})

    is_new = write_data_set(folder, vocabulary, content, write, overwrite=overwrite, say=say)
    return Imported(folder, read_meta(folder), is_new)


def _described(files: Sequence[InstanceFile]) -> Iterator[dict[str, Any]]:
    """What decides the content of each: reads all of them once."""
    with Progress("hashes") as progress:
        for number, file in enumerate(files, 1):
            yield file.describe()
            progress.update(number / len(files), files=1)


def _name(path: Path) -> str:
    return path.name if path.is_absolute() else path.as_posix()


def _survey(files: Sequence[InstanceFile], options: ImportOptions) -> tuple[InstanceOptions, bool]:
    """What the first sound records say of all: their options, and whether they have masks."""
    piece, rows = _first_records(files, options.skip_damaged)
    columns, vocabulary = piece.columns, files[0].vocabulary
    ids, positions = columns.input_ids.counts[rows], columns.positions.counts[rows]
    segments = columns.segment_ids
    has_pairs = any(
        segments.values[segments.starts[row] : segments.starts[row] + segments.counts[row]].any()
        for row in rows
    )
    objective = options.objective or (MLM_NSP if has_pairs else MLM)
    width = _width(ids, columns.lengths[rows])
    length = options.max_seq_length or width or _rounded(int(ids.max()))
    most = options.max_predictions_per_seq or _width(positions, columns.num_masks[rows])
    if most is None:
        most = max(round(PREDICTIONS_PER_128 * length / 128), int(positions.max()))
    is_lower = options.do_lower_case
    instance_options = InstanceOptions(
        max_seq_length=length,
        max_predictions_per_seq=min(most, length - NUM_SPECIAL_TOKENS[objective]),
        masked_lm_prob=0.15,
        short_seq_prob=0.0,
        dupe_factor=1,
        random_seed=12345,
        do_whole_word_mask=False,
        do_lower_case=is_uncased(vocabulary) if is_lower is None else is_lower,
        mode=FAST,
        objective=objective,
    )
    return instance_options, piece.has_masks


def _width(counts: NDArray[np.int64], used: NDArray[np.int64]) -> int | None:
    """Most frequent width of lists that are padded; None where none is."""
    return int(np.bincount(counts).argmax()) if (used < counts).any() else None


def _rounded(length: int) -> int:
    return max(MIN_SEQ_LENGTH[FAST], -(-length // _MULTIPLE) * _MULTIPLE)


def _first_records(files: Sequence[InstanceFile], skip_damaged: bool) -> tuple[Piece, NDArray]:
    """The first piece with a readable record, and the rows of these."""
    for file in files:
        for piece in file.pieces(Place()):
            rows = [row for row in range(len(piece.numbers)) if row not in piece.problems]
            if piece.problems and not skip_damaged:
                raise _first_damage(file, piece.numbers, piece.problems)
            if rows:
                return piece, np.array(rows)
    raise DataError(f"{files[0]} and what came with it hold no instance, expected some")


def is_uncased(vocabulary: Vocabulary) -> bool:
    """Whether a vocabulary looks like one of lower-cased text: hardly a token has capitals."""
    words = [token for token in vocabulary.tokens if token not in SPECIAL_TOKENS]
    return sum(word != word.lower() for word in words) <= _FEW_CASED * len(words)


def _first_damage(file: InstanceFile, numbers: NDArray, problems: dict[int, str]) -> DataError:
    row = min(problems)
    return file.damaged(int(numbers[row]), problems[row])


@dataclass(frozen=True)
class _Source:
    """Gives the sequences of files, as `StoreWriter.write_sequences` asks for them."""

    files: Sequence[InstanceFile]
    states: Sequence[object]  # of the files before they were read
    options: InstanceOptions
    has_masks: bool
    skip_damaged: bool

    def __call__(self, state: dict[str, Any]) -> Iterator[tuple[SequenceChunk, float]]:
        """The sequences from a state on."""
        sizes = [file.size() for file in self.files]
        with Progress("import", _fraction(sizes, state)) as progress:
            while state["file"] < len(self.files):
                file = self.files[state["file"]]
                for piece in file.pieces(Place(state["offset"], state["number"])):
                    chunk = self._sound(file, piece, state)
                    state |= piece.place._asdict()
                    fraction = _fraction(sizes, state)
                    progress.update(fraction, instances=len(chunk.a_lengths))
                    if len(chunk.a_lengths):
                        yield chunk, fraction
                state |= {"file": state["file"] + 1, **Place()._asdict()}

    def _sound(self, file: InstanceFile, piece: Piece, state: dict[str, Any]) -> SequenceChunk:
        """The sound records of a piece; the others are noted in the state, or an error."""
        if file.state() != self.states[state["file"]]:
            raise SourceUnavailable(f"{file} was written while it was read")
        chunk, problems = as_sequences(piece.columns, piece.problems, self.options, file.vocabulary)
        if piece.has_masks != self.has_masks and len(problems) < len(piece.numbers):
            raise _first_damage(file, piece.numbers, {0: "masks in some records only"})
        if problems and not self.skip_damaged:
            raise _first_damage(file, piece.numbers, problems)
        state["num_left_out"] += len(problems)
        for row in sorted(problems)[: _NAMED - len(state["left_out"])]:
            record = f"{_name(file.path)}, {file.record} {piece.numbers[row]:,}"
            state["left_out"].append(f"{record}: {problems[row]}")
        return chunk if self.has_masks else chunk._replace(masks=None)


def _fraction(sizes: Sequence[int], state: dict[str, Any]) -> float:
    """How much is read; sizes of compressed files are guesses."""
    done = sum(sizes[: state["file"]]) + state["offset"]
    return min(1.0, done / max(1, sum(sizes)))
