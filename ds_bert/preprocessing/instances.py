"""Making the instances of one sequence length and writing them into a token store."""

from functools import partial
from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.format import (
    INSTANCE_DTYPE,
    OFFSET_DTYPE,
    POSITION_DTYPE,
    Documents,
    document_ranges,
)
from ds_bert.dataset.journal import Stage
from ds_bert.dataset.npy import NpyWriter
from ds_bert.dataset.options import MLM, InstanceOptions
from ds_bert.dataset.writer import StoreWriter
from ds_bert.instances.doc_sentences import build_doc_sentences
from ds_bert.instances.exact import GoogleInstances, InstanceChunk
from ds_bert.instances.fast import build_instances
from ds_bert.preprocessing.parallel import Progress, ordered_map

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
    stage = f"seq{options.max_seq_length}"
    if options.mode == "exact":
        made = store.scratch(f"made{options.max_seq_length}")
        work = partial(_write_exact, store, made, documents, options)
        state = store.run(stage, work, num_instances=0, num_random_next=0, num_stored_masks=0)
        made.remove()
    else:
        work = partial(_write_fast, documents, options, num_workers)
        state = store.run(stage, work, num_instances=0, num_random_next=0, num_portions=0)
    store.lengths[str(options.max_seq_length)] = {
        "options": options.record,
        "num_instances": state["num_instances"],
        "num_random_next": state["num_random_next"],
        "num_stored_masks": state.get("num_stored_masks"),
    }


def _write_fast(
    documents: Documents, options: InstanceOptions, num_workers: int, stage: Stage
) -> None:
    """A portion is a range of documents in one copy of the corpus."""

    def build(portion: tuple[int, tuple[int, int]]) -> NDArray:
        copy, (first, last) = portion
        if options.objective == MLM:
            return build_doc_sentences(documents, options, copy, first, last)
        return build_instances(documents, options, copy, first, last)

    ranges = list(document_ranges(documents.sentence_offsets))
    total, state = options.dupe_factor * len(ranges), stage.state
    left = islice(product(range(options.dupe_factor), ranges), state["num_portions"], None)
    instances = stage.array(f"seq{options.max_seq_length}/instances", INSTANCE_DTYPE)
    with Progress(f"length {options.max_seq_length}", state["num_portions"] / total) as progress:
        for rows in ordered_map(build, left, num_workers):
            _append_rows(rows, instances, state)
            state["num_portions"] += 1
            progress.update(state["num_portions"] / total, rows=len(rows))
            stage.step(state["num_portions"] / total)


def _append_rows(rows: NDArray, instances: NpyWriter, state: dict[str, Any]) -> None:
    instances.append(rows)
    state["num_instances"] = instances.num_items
    state["num_random_next"] += int(rows["is_random_next"].sum())


class _Made(NamedTuple):
    """Instances in the order in which they are made, memory-mapped.

    Attributes:
        rows, mask_counts, positions, replacements: as in `InstanceChunk`.
        mask_starts: uint64 [N], first masked token of each instance.
    """

    rows: NDArray
    mask_counts: NDArray[np.uint16]
    positions: NDArray[np.uint16]
    replacements: NDArray
    mask_starts: NDArray[np.uint64]


def _write_exact(
    store: StoreWriter,
    scratch: StoreWriter,
    documents: Documents,
    options: InstanceOptions,
    stage: Stage,
) -> None:
    """Instances are made in one order and stored in another: the first goes through files."""
    google = GoogleInstances(documents, options, store.vocabulary)
    made = _make(scratch, google, options)
    order = google.final_order(len(made.rows))  # 8 bytes an instance in memory
    name, state = f"seq{options.max_seq_length}/", stage.state
    instances = stage.array(name + "instances", INSTANCE_DTYPE)
    masks = (
        stage.array(name + "masked_positions", POSITION_DTYPE),
        stage.array(name + "masked_replacements", store.vocabulary.token_dtype),
        stage.array(name + "masked_offsets", OFFSET_DTYPE),
    )
    title, done = f"length {options.max_seq_length}, shuffled", state["num_instances"]
    with Progress(title, done / len(order)) as progress:
        for first in range(done, len(order), _ROWS_AT_ONCE):
            numbers = order[first : first + _ROWS_AT_ONCE]
            _append_rows(made.rows[numbers], instances, state)
            _append_masks(made, numbers, *masks)
            state["num_stored_masks"] = masks[0].num_items
            progress.update(instances.num_items / len(order), rows=len(numbers))
            stage.step(instances.num_items / len(order))


def _append_masks(
    made: _Made,
    numbers: NDArray[np.int64],
    positions: NpyWriter,
    replacements: NpyWriter,
    offsets: NpyWriter,
) -> None:
    if offsets.num_items == 0:
        offsets.append(np.zeros(1, OFFSET_DTYPE))
    counts = made.mask_counts[numbers].astype(np.int64)
    ends = np.cumsum(counts)
    starts = made.mask_starts[numbers].astype(np.int64)
    items = np.arange(counts.sum()) + np.repeat(starts - ends + counts, counts)
    offsets.append((positions.num_items + ends).astype(OFFSET_DTYPE))
    positions.append(made.positions[items])
    replacements.append(made.replacements[items])


def _make(scratch: StoreWriter, google: GoogleInstances, options: InstanceOptions) -> _Made:
    token_dtype = scratch.vocabulary.token_dtype
    dtypes = (INSTANCE_DTYPE, POSITION_DTYPE, POSITION_DTYPE, token_dtype, OFFSET_DTYPE)
    arrays: dict[str, np.dtype] = dict(zip(_Made._fields, dtypes, strict=True))

    def work(stage: Stage) -> None:
        files = [stage.array(name, dtype) for name, dtype in arrays.items()]
        google.go_to(**stage.state)
        with Progress(f"length {options.max_seq_length}", google.fraction) as progress:
            for chunk in google.chunks():
                _append_chunk(chunk, *files)
                stage.state.update(google.position())
                progress.update(google.fraction, rows=len(chunk.rows))
                stage.step(google.fraction)

    google.go_to(**scratch.run("instances", work, **google.position()))
    return _Made(*(scratch.read(name, dtype) for name, dtype in arrays.items()))


def _append_chunk(
    chunk: InstanceChunk,
    rows: NpyWriter,
    mask_counts: NpyWriter,
    positions: NpyWriter,
    replacements: NpyWriter,
    mask_starts: NpyWriter,
) -> None:
    ends = positions.num_items + np.cumsum(chunk.mask_counts, dtype=np.int64)
    mask_starts.append((ends - chunk.mask_counts).astype(OFFSET_DTYPE))
    for file, items in zip((rows, mask_counts, positions, replacements), chunk, strict=True):
        file.append(items)
