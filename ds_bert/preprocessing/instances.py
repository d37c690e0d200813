"""Making the instances of one sequence length and writing them into a token store."""

from collections.abc import Iterator
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.documents import document_ranges
from ds_bert.dataset.format import Documents, StoredMasks
from ds_bert.dataset.options import InstanceOptions
from ds_bert.dataset.store_writer import StoreWriter
from ds_bert.dataset.tables import MaskChunk, RowChunk
from ds_bert.instances.exact import GoogleInstances
from ds_bert.instances.fast import build_instances
from ds_bert.preprocessing.parallel import ordered_map
from ds_bert.progress import Progress

_ROWS_AT_ONCE = 1 << 16


def write_instances(
    store: StoreWriter, documents: Documents, options: InstanceOptions, num_workers: int
) -> None:
    """Write seqN/*.npy and what meta.json says about them.

    Args:
        store: the data set.
        documents: its documents.
        options: length, mode and the rest.
        num_workers: number of threads in fast mode; exact mode is one long chain of draws.
    """
    if options.mode == "exact":
        made = store.scratch(f"made{options.max_seq_length}")
        source = partial(_shuffled, made, documents, options)
        store.write_rows(options, source, {"num_rows": 0}, has_masks=True)
        made.remove()
    else:
        source = partial(_fast, documents, options, num_workers)
        store.write_rows(options, source, {"num_portions": 0}, has_masks=False)


def _fast(
    documents: Documents, options: InstanceOptions, num_workers: int, state: dict[str, Any]
) -> Iterator[tuple[RowChunk, float]]:
    """A portion is a range of documents in one copy of the corpus."""

    def build(portion: tuple[int, tuple[int, int]]) -> NDArray:
        copy, (first, last) = portion
        return build_instances(documents, options, copy, first, last)

    ranges = list(document_ranges(documents.sentence_offsets))
    total = options.dupe_factor * len(ranges)
    left = islice(product(range(options.dupe_factor), ranges), state["num_portions"], None)
    with Progress(f"length {options.max_seq_length}", state["num_portions"] / total) as progress:
        for rows in ordered_map(build, left, num_workers):
            state["num_portions"] += 1
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
