"""Making the instances of one sequence length and writing them into a token store."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ds_bert.google_instances import GoogleInstances, InstanceChunk
from ds_bert.instance_options import InstanceOptions
from ds_bert.instances import build_instances
from ds_bert.parallel import ordered_map, progress_bar
from ds_bert.store import INSTANCE_DTYPE, OFFSET_DTYPE, POSITION_DTYPE, Documents
from ds_bert.store_writer import StoreWriter

_RANGE_SENTENCES = 1 << 16  # of documents given to one worker at a time
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
        facts = _write_exact(store, documents, options)
    else:
        facts = _write_fast(store, documents, options, num_workers)
    store.lengths[str(options.max_seq_length)] = {"options": asdict(options), **facts}


def _write_fast(
    store: StoreWriter, documents: Documents, options: InstanceOptions, num_workers: int
) -> dict[str, Any]:
    def build(part: tuple[int, tuple[int, int]]) -> NDArray:
        copy, (first, last) = part
        return build_instances(documents, options, copy, first, last)

    ranges = list(document_ranges(documents.sentence_offsets))
    parts = product(range(options.dupe_factor), ranges)
    return {
        **_write_rows(store, options, ordered_map(build, parts, num_workers)),
        "num_stored_masks": None,
    }


def document_ranges(sentence_offsets: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Documents `first` to `last` - 1 of each portion of work, about 65,536 sentences."""
    first, num_documents = 0, len(sentence_offsets) - 1
    while first < num_documents:
        end = sentence_offsets[first] + np.uint64(_RANGE_SENTENCES)
        last = int(np.searchsorted(sentence_offsets, end, "right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def _write_rows(
    store: StoreWriter, options: InstanceOptions, chunks: Iterable[NDArray]
) -> dict[str, Any]:
    name, num_random_next = f"seq{options.max_seq_length}/instances", 0
    with store.array(name, INSTANCE_DTYPE) as instances, progress_bar(name, None, "row") as bar:
        for rows in chunks:
            instances.append(rows)
            bar.update(len(rows))
            num_random_next += int(rows["is_random_next"].sum())
        return {"num_instances": instances.num_items, "num_random_next": num_random_next}


def _write_exact(
    store: StoreWriter, documents: Documents, options: InstanceOptions
) -> dict[str, Any]:
    """Instances are made in one order and stored in another: the first goes through files."""
    scratch = StoreWriter(store.folder / "scratch", store.vocabulary)
    google = GoogleInstances(documents, options, store.vocabulary)
    made = _write_unordered(scratch, google.chunks())
    order = google.final_order(len(made.rows))
    slices = [order[i : i + _ROWS_AT_ONCE] for i in range(0, len(order), _ROWS_AT_ONCE)]
    facts = _write_rows(store, options, (made.rows[numbers] for numbers in slices))
    facts["num_stored_masks"] = _write_masks(store, options, made, slices)
    shutil.rmtree(scratch.folder)
    return facts


def _write_masks(
    store: StoreWriter,
    options: InstanceOptions,
    made: InstanceChunk,
    slices: list[NDArray[np.int64]],
) -> int:
    name = f"seq{options.max_seq_length}/masked_"
    starts = np.cumsum(made.mask_counts, dtype=np.int64) - made.mask_counts
    with (
        store.array(name + "positions", POSITION_DTYPE) as positions,
        store.array(name + "replacements", store.vocabulary.token_dtype) as replacements,
        store.array(name + "offsets", OFFSET_DTYPE) as offsets,
    ):
        offsets.append(np.zeros(1, OFFSET_DTYPE))
        for numbers in slices:
            counts = made.mask_counts[numbers].astype(np.int64)
            ends = np.cumsum(counts)
            offsets.append((positions.num_items + ends).astype(OFFSET_DTYPE))
            items = np.arange(counts.sum()) + np.repeat(starts[numbers] - ends + counts, counts)
            positions.append(made.positions[items])
            replacements.append(made.replacements[items])
        return positions.num_items


def _write_unordered(scratch: StoreWriter, chunks: Iterable[InstanceChunk]) -> InstanceChunk:
    dtypes = (INSTANCE_DTYPE, POSITION_DTYPE, POSITION_DTYPE, scratch.vocabulary.token_dtype)
    with (
        scratch.array("rows", dtypes[0]) as rows,
        scratch.array("mask_counts", dtypes[1]) as mask_counts,
        scratch.array("positions", dtypes[2]) as positions,
        scratch.array("replacements", dtypes[3]) as replacements,
        progress_bar("unordered instances", None, "row") as bar,
    ):
        writers = (rows, mask_counts, positions, replacements)
        for chunk in chunks:
            bar.update(len(chunk.rows))
            for writer, items in zip(writers, chunk, strict=True):
                writer.append(items)
    return InstanceChunk(
        *(
            scratch.read(name, dtype, writer.num_items)
            for name, dtype, writer in zip(InstanceChunk._fields, dtypes, writers, strict=True)
        )
    )
