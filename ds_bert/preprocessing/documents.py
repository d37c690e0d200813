"""Tokenizing a text into the stores of its parts, training and perhaps validation."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.documents import DocumentRun, document_ranges, encoded_run, selected_run
from ds_bert.dataset.format import LEFT_OUT, OFFSET_DTYPE, Corpus, neighbours
from ds_bert.dataset.journal import Stage, stage_name
from ds_bert.dataset.options import MLM, MLM_SOP
from ds_bert.dataset.store_writer import DOCUMENTS, StoreWriter
from ds_bert.errors import DataError
from ds_bert.preprocessing.near_duplicates import near_duplicates
from ds_bert.preprocessing.options import TRAIN, PreprocessOptions
from ds_bert.preprocessing.parallel import ordered_map
from ds_bert.preprocessing.parts import MIN_DOCUMENTS, choose_parts
from ds_bert.progress import Progress
from ds_bert.text.blocks import Block, Position, invalid_utf8, read_blocks
from ds_bert.text.watch import WatchedInputs
from ds_bert.tokenizer.wordpiece import EncodedText, WordPieceTokenizer

MAX_UNKNOWN = 0.5  # of the words; more is a vocabulary of another language
STATISTICS = ("words", "unknown_words", "invalid_bytes")
LEFT_OUT_COUNT = "near_duplicates_left_out"  # a further one, where they are left out
_WHOLE = "whole"  # the scratch store of the text that is divided into parts


class Written(NamedTuple):
    """What was written.

    Attributes:
        statistics: of the whole text, for meta.json.
        corpora: of each part, which of its documents are of which corpus.
    """

    statistics: dict[str, int]
    corpora: dict[str, list[Corpus]]


def write_documents(
    options: PreprocessOptions,
    inputs: WatchedInputs,
    corpora: Sequence[Corpus],
    tokenizer: WordPieceTokenizer,
    stores: dict[str, StoreWriter],
) -> Written:
    """Write the documents of all parts; which one goes where needs the number of all of them.

    Args:
        options: of the user.
        inputs: the text.
        corpora: which inputs are of which corpus.
        tokenizer: what makes tokens of it.
        stores: by part, what to write into.

    Raises:
        DataError: the text is unusable.
    """
    train = stores[TRAIN]
    whole = train.scratch(_WHOLE) if options.is_divided else train
    counts = dict.fromkeys(("input", "offset", "bytes", "tokens", *STATISTICS), 0)
    state = whole.write_documents(
        partial(_tokenized, options, inputs, corpora, tokenizer),
        counts | {"documents": [0] * len(corpora)},
    )
    corpora = neighbours(corpora, state["documents"])
    _check_documents(options, corpora, state)
    statistics = {name: state[name] for name in STATISTICS}
    if not options.is_divided:
        return Written(statistics, {TRAIN: corpora})
    is_kept = np.ones(corpora[-1].last, np.bool_)
    if options.deduplicate:
        left_out = _left_out(whole, train, options.num_workers)
        is_kept[left_out] = False
        statistics[LEFT_OUT_COUNT] = len(left_out)
    chosen = choose_parts(options, corpora, is_kept)
    for part, store in stores.items():
        store.write_documents(partial(_selected, whole, chosen[part]), {"num_portions": 0})
    whole.remove()
    numbers = {
        part: [int(is_in[corpus.items].sum()) for corpus in corpora]
        for part, is_in in chosen.items()
    }
    return Written(statistics, {part: neighbours(corpora, numbers[part]) for part in stores})


def tokenizing_stage(is_divided: bool) -> str:
    """Name of the stage that tokenizes the text."""
    return stage_name(TRAIN, *([_WHOLE] if is_divided else []), DOCUMENTS)


def _left_out(whole: StoreWriter, train: StoreWriter, num_workers: int) -> NDArray[np.int64]:
    """Numbers of the near-duplicates, which are kept with the training data."""

    def work(stage: Stage) -> None:
        found = near_duplicates(whole.documents(), num_workers, whole.folder)
        stage.array(LEFT_OUT, OFFSET_DTYPE).append(np.flatnonzero(found).astype(OFFSET_DTYPE))

    train.run(LEFT_OUT, work, {})
    return train.array(LEFT_OUT, OFFSET_DTYPE).astype(np.int64)


def _tokenized(
    options: PreprocessOptions,
    watched: WatchedInputs,
    corpora: Sequence[Corpus],
    tokenizer: WordPieceTokenizer,
    state: dict[str, Any],
) -> Iterator[tuple[DocumentRun, float]]:
    """The documents from the position in `state` on; counts there what they hold."""
    total = max(1, sum(source.num_bytes for source in watched.inputs))  # about

    def encode(block: Block) -> tuple[EncodedText, int, Position]:
        return tokenizer.encode(block.text), len(block.text), block.end

    with Progress("tokens", min(1.0, state["bytes"] / total)) as progress:
        for number, corpus in enumerate(corpora):
            blocks = _blocks(options, watched, corpus, Position(state["input"], state["offset"]))
            for text, num_bytes, end in ordered_map(encode, blocks, options.num_workers):
                if text.num_invalid_bytes and options.errors == "strict":
                    raise invalid_utf8(watched.inputs)
                state["input"], state["offset"] = end
                state["bytes"] += num_bytes
                state["documents"][number] += len(text.document_ends)
                state["tokens"] += len(text.tokens)
                state["words"] += text.num_words
                state["unknown_words"] += text.num_unknown
                state["invalid_bytes"] += text.num_invalid_bytes
                fraction = min(1.0, state["bytes"] / total)
                progress.update(fraction, B=num_bytes, tokens=len(text.tokens))
                yield encoded_run(text), fraction


def _blocks(
    options: PreprocessOptions, watched: WatchedInputs, corpus: Corpus, start: Position
) -> Iterator[Block]:
    """The text of one corpus from a position on, if that is not behind it."""
    start = max(start, Position(corpus.first, 0))
    if start.number >= corpus.last:
        return iter(())
    blocks = read_blocks(
        watched.inputs[: corpus.last],
        join_files=options.mode == "exact",
        block_bytes=options.block_bytes,
        start=start,
    )
    return watched.checked(blocks, start.number)


def _selected(
    whole: StoreWriter, is_chosen: NDArray[np.bool_], state: dict[str, Any]
) -> Iterator[tuple[DocumentRun, float]]:
    """The documents of one part."""
    documents = whole.documents()
    ranges = list(document_ranges(documents.sentence_offsets))
    for first, last in ranges[state["num_portions"] :]:
        numbers = first + np.flatnonzero(is_chosen[first:last])
        state["num_portions"] += 1
        yield selected_run(documents, numbers), state["num_portions"] / len(ranges)


def _check_documents(
    options: PreprocessOptions, corpora: Sequence[Corpus], counts: dict[str, Any]
) -> None:
    if counts["tokens"] == 0:
        raise DataError(
            f"no text in {', '.join(options.input_file)}; expected one sentence on each line and a "
            "blank line between documents"
        )
    if options.mode != "fast":
        return
    for corpus in corpora:
        if corpus.size < MIN_DOCUMENTS[options.objective]:
            _refuse_few(corpus)
    unknown = counts["unknown_words"] / max(1, counts["words"])
    if unknown > MAX_UNKNOWN:
        raise DataError(
            f"{unknown:.0%} of the words are [UNK]: {options.vocab_file} is no vocabulary of this "
            "text; ds-bert create-vocab learns one from it"
        )


def _refuse_few(corpus: Corpus) -> None:
    if not corpus.size:
        raise DataError(f"no text in corpus {corpus.name}; give some, or leave the corpus out")
    what = f"corpus {corpus.name}" if corpus.name else "the input"
    raise DataError(
        f"{what} is a single document, so there is no other one to take a random next "
        "sentence from; put blank lines between documents, or use "
        f"{'' if corpus.name else '--mode exact or '}--objective {MLM_SOP} or {MLM} to go on"
    )
