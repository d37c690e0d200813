"""Tokenizing a text into the stores of its parts, training and perhaps validation."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from ds_bert.dataset.documents import DocumentRun, document_ranges, encoded_run, selected_run
from ds_bert.dataset.journal import stage_name
from ds_bert.dataset.options import MLM, MLM_NSP, MLM_SOP
from ds_bert.dataset.store_writer import DOCUMENTS, StoreWriter
from ds_bert.errors import DataError
from ds_bert.preprocessing.options import TRAIN, VALIDATION, PreprocessOptions
from ds_bert.preprocessing.parallel import ordered_map
from ds_bert.progress import Progress
from ds_bert.rng.streams import SPLIT, keys
from ds_bert.text.blocks import Block, Position, invalid_utf8, read_blocks
from ds_bert.text.watch import WatchedInputs
from ds_bert.tokenizer.wordpiece import EncodedText, WordPieceTokenizer

# Of each part; a random next sentence comes from another document.
MIN_DOCUMENTS = {MLM_NSP: 2, MLM_SOP: 1, MLM: 1}
MAX_UNKNOWN = 0.5  # of the words; more is a vocabulary of another language
STATISTICS = ("words", "unknown_words", "invalid_bytes")
_WHOLE = "whole"  # the scratch store of the text that is divided into parts


def write_documents(
    options: PreprocessOptions,
    inputs: WatchedInputs,
    tokenizer: WordPieceTokenizer,
    stores: dict[str, StoreWriter],
) -> dict[str, int]:
    """Write the documents of all parts; which one goes where needs the number of all of them.

    Returns:
        statistics of the whole text for meta.json.

    Raises:
        DataError: the text is unusable.
    """
    train, whole = stores[TRAIN], stores[TRAIN]
    if VALIDATION in stores:
        whole = train.scratch(_WHOLE)
    counts = dict.fromkeys(("input", "offset", "bytes", "documents", "tokens", *STATISTICS), 0)
    state = whole.write_documents(partial(_tokenized, options, inputs, tokenizer), counts)
    _check_documents(options, state)
    if VALIDATION in stores:
        for part, store in stores.items():
            runs = partial(_selected, options, whole, state["documents"], part == VALIDATION)
            store.write_documents(runs, {"num_portions": 0})
        whole.remove()
    return {name: state[name] for name in STATISTICS}


def tokenizing_stage(is_split: bool) -> str:
    """Name of the stage that tokenizes the text."""
    return stage_name(TRAIN, *([_WHOLE] if is_split else []), DOCUMENTS)


def _tokenized(
    options: PreprocessOptions,
    watched: WatchedInputs,
    tokenizer: WordPieceTokenizer,
    state: dict[str, Any],
) -> Iterator[tuple[DocumentRun, float]]:
    """The documents from the position in `state` on; counts there what they hold."""
    inputs, start = watched.inputs, Position(state["input"], state["offset"])
    blocks = read_blocks(
        inputs,
        join_files=options.mode == "exact",
        block_bytes=options.block_bytes,
        start=start,
    )
    total = max(1, sum(source.num_bytes for source in inputs))  # about

    def encode(block: Block) -> tuple[EncodedText, int, Position]:
        return tokenizer.encode(block.text), len(block.text), block.end

    with Progress("tokens", min(1.0, state["bytes"] / total)) as progress:
        for text, num_bytes, end in ordered_map(
            encode, watched.checked(blocks, start.number), options.num_workers
        ):
            if text.num_invalid_bytes and options.errors == "strict":
                raise invalid_utf8(inputs)
            state["input"], state["offset"] = end
            state["bytes"] += num_bytes
            state["documents"] += len(text.document_ends)
            state["tokens"] += len(text.tokens)
            state["words"] += text.num_words
            state["unknown_words"] += text.num_unknown
            state["invalid_bytes"] += text.num_invalid_bytes
            fraction = min(1.0, state["bytes"] / total)
            progress.update(fraction, B=num_bytes, tokens=len(text.tokens))
            yield encoded_run(text), fraction


def _selected(
    options: PreprocessOptions,
    whole: StoreWriter,
    num_documents: int,
    is_validation: bool,
    state: dict[str, Any],
) -> Iterator[tuple[DocumentRun, float]]:
    """The documents of one part: those with the smallest hashes are for validation.

    Hashes of all documents are in memory, 8 bytes each (16 while their order is looked for).
    """
    needed = MIN_DOCUMENTS[options.objective]
    wanted = max(needed, round(options.fraction * num_documents))
    if num_documents - wanted < needed:
        raise DataError(
            f"{num_documents} documents cannot be divided into training and validation data, each "
            f"needs {needed}; give more text with blank lines between documents, or use "
            "--validation_fraction 0"
        )
    documents = whole.documents()
    hashes = keys(options.random_seed, SPLIT, 0, num_documents)  # no two are equal
    largest = np.partition(hashes, wanted - 1)[wanted - 1]
    ranges = list(document_ranges(documents.sentence_offsets))
    for first, last in ranges[state["num_portions"] :]:
        chosen = (hashes[first:last] <= largest) == is_validation
        state["num_portions"] += 1
        fraction = state["num_portions"] / len(ranges)
        yield selected_run(documents, first + np.flatnonzero(chosen)), fraction


def _check_documents(options: PreprocessOptions, counts: dict[str, int]) -> None:
    if counts["tokens"] == 0:
        raise DataError(
            f"no text in {', '.join(options.input_file)}; expected one sentence on each line and a "
            "blank line between documents"
        )
    if options.mode == "fast" and counts["documents"] < MIN_DOCUMENTS[options.objective]:
        raise DataError(
            "the input is a single document, so there is no other one to take a random next "
            "sentence from; put blank lines between documents, or use --mode exact or --objective "
            f"{MLM_SOP} or {MLM} to go on"
        )
    unknown = counts["unknown_words"] / max(1, counts["words"])
    if options.mode == "fast" and unknown > MAX_UNKNOWN:
        raise DataError(
            f"{unknown:.0%} of the words are [UNK]: {options.vocab_file} is no vocabulary of this "
            "text; ds-bert create-vocab learns one from it"
        )
