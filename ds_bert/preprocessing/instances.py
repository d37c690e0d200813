"""Making the instances of one sequence length and writing them into a token store."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.documents import document_ranges
from ds_bert.dataset.format import Corpus, Documents, StoredMasks
from ds_bert.dataset.options import InstanceOptions
from ds_bert.dataset.store_writer import StoreWriter
from ds_bert.dataset.tables import MaskChunk, RowChunk
from ds_bert.instances.exact import GoogleInstances
from ds_bert.instances.fast import build_instances
from ds_bert.preprocessing.parallel import ordered_map
from ds_bert.progress import Progress
from ds_bert.rng.streams import named_seed

_ROWS_AT_ONCE = 1 << 16


def write_instances(
    store: StoreWriter,
    documents: Documents,
    options: InstanceOptions,
    num_workers: int,
    corpora: Sequence[Corpus] = (),
) -> None:
    """Write seqN/*.npy and what meta.json says about them.

    Args:
        store: the data set.
        documents: its documents.
        options: length, mode and the rest.
        num_workers: number of threads in fast mode; exact mode is one long chain of draws.
        corpora: which documents are of which corpus, in fast mode; rows of a corpus are neighbours,
            and are the same whatever other corpora there are.
    """
    if options.mode == "exact":
        made = store.scratch(f"made{options.max_seq_length}")
        source = partial(_shuffled, made, documents, options)
        store.write_rows(options, source, {"num_rows": 0}, has_masks=True)
        made.remove()
    else:
        parts = corpora or [Corpus("", None, 0, len(documents.token_offsets) - 1)]
        source = partial(_fast, documents, parts, options, num_workers)
        start = {"num_portions": 0, "num_instances": [0] * len(parts)}
        end = store.write_rows(options, source, start, has_masks=False)
        if corpora:
            numbers = zip(corpora, end["num_instances"], strict=True)
            in_meta = store.lengths[str(options.max_seq_length)]
            in_meta["corpora"] = {corpus.name: number for corpus, number in numbers}


def _fast(
    documents: Documents,
    corpora: Sequence[Corpus],
    options: InstanceOptions,
    num_workers: int,
    state: dict[str, Any],
) -> Iterator[tuple[RowChunk, float]]:
    """A portion is a range of documents in one copy of one corpus.

    Each corpus is worked on as if it were alone: a random next sentence from another one would be
    known by its language.
    """
    parts = [documents.part(corpus) for corpus in corpora]
    seeds = [named_seed(options.random_seed, corpus.name) for corpus in corpora]
    ranges = [list(document_ranges(part.sentence_offsets)) for part in parts]

    def build(portion: tuple[int, int, tuple[int, int]]) -> tuple[int, NDArray]:
        number, copy, (first, last) = portion
        seeded = replace(options, random_seed=seeds[number])
        return number, build_instances(parts[number], seeded, copy, first, last)

    total = options.dupe_factor * sum(map(len, ranges))
    portions = (
        (number, copy, part)
        for number, of_corpus in enumerate(ranges)
        for copy, part in product(range(options.dupe_factor), of_corpus)
    )
    left = islice(portions, state["num_portions"], None)
    with Progress(f"length {options.max_seq_length}", state["num_portions"] / total) as progress:
        for number, rows in ordered_map(build, left, num_workers):
            state["num_portions"] += 1
            state["num_instances"][number] += len(rows)
            fraction = state["num_portions"] / total
            progress.update(fraction, rows=len(rows))
            yield RowChunk(rows), fraction


def _shuffled(
    made: StoreWriter, documents: Documents, options: InstanceOptions, state: dict[str, Any]
) -> Iterator[tuple[RowChunk, float]]:
    """Instances are made in one order and stored in another: the first goes through files."""
    google = GoogleInstances(documents, options, made.vocabulary)
    source = partial(_made, google, options)
    google.go_to(**made.write_rows(options, source, google.position(), has_masks=True))
    rows, masks = made.rows(options.max_seq_length), made.masks(options.max_seq_length)
    order = google.final_order(len(rows))  # 8 bytes an instance in memory
    title = f"length {options.max_seq_length}, shuffled"
    with Progress(title, state["num_rows"] / len(order)) as progress:
        for first in range(state["num_rows"], len(order), _ROWS_AT_ONCE):
            numbers = order[first : first + _ROWS_AT_ONCE]
            state["num_rows"] += len(numbers)
            fraction = state["num_rows"] / len(order)
            progress.update(fraction, rows=len(numbers))
            yield RowChunk(rows[numbers], _selected_masks(masks, numbers)), fraction


def _made(
    google: GoogleInstances, options: InstanceOptions, state: dict[str, Any]
) -> Iterator[tuple[RowChunk, float]]:
    google.go_to(**state)
    with Progress(f"length {options.max_seq_length}", google.fraction) as progress:
        for rows, *masks in google.chunks():
            state.update(google.position())
            progress.update(google.fraction, rows=len(rows))
            yield RowChunk(rows, MaskChunk(*masks)), google.fraction


def _selected_masks(masks: StoredMasks, numbers: NDArray[np.int64]) -> MaskChunk:
    counts, items = masks.find(numbers)
    return MaskChunk(counts.astype(np.uint16), masks.positions[items], masks.replacements[items])
