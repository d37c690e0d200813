"""Reading a whole data set and checking that every byte and every number is sound."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.documents import document_ranges
from ds_bert.dataset.format import (
    LEFT_OUT,
    OFFSET_DTYPE,
    StoredMasks,
    mask_arrays,
    row_array,
    table_name,
)
from ds_bert.dataset.npy import HEADER_BYTES, damaged_block, read_npy
from ds_bert.dataset.store import InstanceTable, TokenStore
from ds_bert.errors import DataError

_ITEMS_AT_ONCE = 1 << 18


def verify(store: TokenStore) -> int:
    """Check all checksums, then that tokens, offsets and rows fit together.

    Returns:
        Number of files checked.

    Raises:
        DataError: something is wrong; names the file.
    """
    tables = [store.instances(length) for length in store.sequence_lengths]
    arrays = dict(_arrays(store, tables))
    for name, items in arrays.items():
        _check_blocks(store, name, items)
    _check_documents(store)
    for table in tables:
        _check_rows(table)
        if table.masks is not None:
            _check_masks(table, table.masks)
    return len(arrays)


def _arrays(store: TokenStore, tables: list[InstanceTable]) -> Iterator[tuple[str, NDArray]]:
    documents = store.documents
    yield "tokens", documents.tokens
    yield "sentence_ends", documents.sentence_ends
    yield "document_token_offsets", documents.token_offsets
    yield "document_sentence_offsets", documents.sentence_offsets
    if record := store.meta["files"].get(f"{LEFT_OUT}.npy"):
        num_items = (record["bytes"] - HEADER_BYTES) // OFFSET_DTYPE.itemsize
        path = store.folder / f"{LEFT_OUT}.npy"
        yield LEFT_OUT, read_npy(path, OFFSET_DTYPE, num_items, record["bytes"])
    for table in tables:
        yield row_array(table.max_seq_length), table.rows
        if table.masks is not None:
            names = mask_arrays(table.max_seq_length, store.vocabulary.token_dtype)
            yield from zip(names, table.masks, strict=True)


def _check_blocks(store: TokenStore, name: str, items: NDArray) -> None:
    block = damaged_block(items, store.meta["files"][f"{name}.npy"]["crc32"])
    if block is not None:
        raise DataError(
            f"{store.folder / name}.npy: the checksum of block {block} (64 MiB each) differs, the "
            "file was damaged after it was written; copy the data set again or rebuild it"
        )


def _check(store: TokenStore, name: str, is_right: NDArray | bool, expected: str) -> None:
    if not np.all(is_right):
        raise DataError(
            f"{store.folder / name}.npy: expected {expected}; "
            "rebuild the data set with ds-bert preprocess"
        )


def _check_documents(store: TokenStore) -> None:
    documents = store.documents
    for start in range(0, len(documents.tokens), _ITEMS_AT_ONCE):
        tokens = documents.tokens[start : start + _ITEMS_AT_ONCE]
        _check(store, "tokens", tokens < store.vocabulary.size, "ids of the vocabulary")
    for name, offsets in (
        ("document_token_offsets", documents.token_offsets),
        ("document_sentence_offsets", documents.sentence_offsets),
    ):
        _check(store, name, offsets[:-1] < offsets[1:], "ascending offsets")
    for first, last in document_ranges(documents.sentence_offsets):
        offsets = documents.sentence_offsets[first : last + 1].astype(np.int64)
        starts = documents.token_offsets[first : last + 1].astype(np.int64)
        ends = documents.sentence_ends[offsets[0] : offsets[-1]].astype(np.int64)
        ends += np.repeat(starts[:-1], np.diff(offsets))
        ascending = np.diff(ends, prepend=starts[0]) > 0
        reaching = ends[offsets[1:] - offsets[0] - 1] == starts[1:]
        _check(store, "sentence_ends", ascending, "ascending ends of sentences")
        _check(store, "sentence_ends", reaching, "the last sentence to end with its document")


def _check_rows(table: InstanceTable) -> None:
    store, name = table.store, row_array(table.max_seq_length)
    for start in range(0, len(table), _ITEMS_AT_ONCE):
        rows = table.rows[start : start + _ITEMS_AT_ONCE]
        a_length, b_length = (rows[key].astype(np.int64) for key in ("a_length", "b_length"))
        if table.options.has_pairs:
            _check(store, name, np.minimum(a_length, b_length) > 0, "segments of a token or more")
        else:
            _check(store, name, (a_length > 0) & (b_length == 0), "one segment of a token or more")
        fits = a_length + b_length <= table.options.max_num_tokens
        _check(store, name, fits, f"sequences of at most {table.max_seq_length} tokens")
        for key, length in (("a_start", a_length), ("b_start", b_length)):
            inside = rows[key] <= np.uint64(len(store.tokens)) - length.astype(np.uint64)
            _check(store, name, inside, "ranges inside tokens.npy")
        _check(store, name, rows["is_random_next"] <= 1, "is_random_next to be 0 or 1")


def _check_masks(table: InstanceTable, masks: StoredMasks) -> None:
    store, name = table.store, f"{table_name(table.max_seq_length)}/masked_"
    ascending = masks.offsets[:-1] <= masks.offsets[1:]
    _check(store, name + "offsets", ascending, "ascending offsets")
    replacements = masks.replacements
    _check(store, name + "replacements", replacements < store.vocabulary.size, "vocabulary ids")
    for start in range(0, len(table), _ITEMS_AT_ONCE):
        rows = table.rows[start : start + _ITEMS_AT_ONCE]
        offsets = masks.offsets[start : start + len(rows) + 1].astype(np.int64)
        counts = np.diff(offsets)
        few = counts <= table.options.max_masks
        _check(store, name + "offsets", few, f"at most {table.options.max_masks} per row")
        positions = masks.positions[offsets[0] : offsets[-1]].astype(np.int64)
        numbers = np.repeat(np.arange(len(rows)), counts)
        order = np.diff(numbers * (table.max_seq_length + 1) + positions) > 0
        _check(store, name + "positions", order, "ascending positions in each row")
        separator = 1 + rows["a_length"].astype(np.int64)
        end = separator + 1 + rows["b_length"]
        on_text = (positions > 0) & (positions != separator[numbers]) & (positions < end[numbers])
        _check(store, name + "positions", on_text, "positions of tokens of the text")
