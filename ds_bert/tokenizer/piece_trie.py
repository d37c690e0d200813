"""Trie of a vocabulary's pieces, as the flat array that the compiled WordPiece loop walks.

A double array (Aoe 1989, "An efficient digital search algorithm by using a double-array
structure"): every node is a cell, and the child of node n by byte b is the cell
`cells[n, CHILDREN] + b`, provided that this cell's PARENT is n. One step costs one addition and
one comparison, several times less than a step through a hash table.
"""

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
from ds_bert.tokenizer.vocabulary import CONTINUATION, Vocabulary

PARENT, CHILDREN, TOKEN = 0, 1, 2  # columns of a cell; TOKEN is -1 where no piece ends
WORD_START, WORD_INSIDE = 0, 1  # cells of the roots: pieces that begin a word, pieces with "##"
FREE = -1
NUM_BYTES = 256


def build(vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Make the trie of a vocabulary.

    Returns:
        int32[cells, 3]: parent, children and token id of each cell, with enough free cells at the
        end that no step leaves the array.
    """
    pieces = sorted(
        (token.startswith(CONTINUATION), token.removeprefix(CONTINUATION).encode(), index)
        for token, index in vocabulary.ids.items()
    )
    # No word holds a space or control byte; the WordPiece loop relies on them to end its walk.
    pieces = [piece for piece in pieces if piece[1] and min(piece[1]) > ord(" ")]
    offsets = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(text) for _, text, _ in pieces], out=offsets[1:])
    return _build(
        np.frombuffer(b"".join(text for _, text, _ in pieces), np.uint8),
        offsets,
        np.array([index for _, _, index in pieces], np.int64),
        sum(not is_inside for is_inside, _, _ in pieces),
    )


@compiled
def _build(text, offsets, tokens, num_start):  # type: ignore[no-untyped-def]
    """Lay out sorted pieces, breadth first, each node's children in the first gap that fits.

    Args:
        text: uint8, the pieces; piece i is text[offsets[i]:offsets[i + 1]].
        offsets: int64[pieces + 1].
        tokens: int64[pieces], token ids.
        num_start: number of pieces that begin a word; they come first.
    """
    cells = _free_cells(4 * NUM_BYTES)
    for root in (WORD_START, WORD_INSIDE):
        cells[root, PARENT] = root
    # A node to lay out: its cell, its depth and the range of the pieces below it.
    nodes = np.empty((len(text) + 2, 4), np.int64)
    _set(nodes[0], WORD_START, 0, 0, num_start)
    _set(nodes[1], WORD_INSIDE, 0, num_start, len(tokens))
    num_nodes = 2
    child_bytes = np.empty(NUM_BYTES, np.int64)
    child_ends = np.empty(NUM_BYTES, np.int64)
    gap = NUM_BYTES  # so far from the start that CHILDREN is never negative
    node = 0
    while node < num_nodes:
        cell, depth, piece, end = nodes[node]
        node += 1
        if piece < end and offsets[piece] + depth == offsets[piece + 1]:
            cells[cell, TOKEN] = tokens[piece]
            piece += 1
        if piece == end:
            continue
        count = _group(text, offsets, depth, piece, end, child_bytes, child_ends)
        while cells[gap, PARENT] != FREE:
            gap += 1
        children = _first_fit(cells, gap, child_bytes[:count])
        cells[cell, CHILDREN] = children
        for child in range(count):
            target = children + child_bytes[child]
            cells[target, PARENT] = cell
            _set(nodes[num_nodes], target, depth + 1, piece, child_ends[child])
            num_nodes += 1
            piece = child_ends[child]
        if children + 3 * NUM_BYTES > len(cells):
            cells = np.concatenate((cells, _free_cells(len(cells))))
    return cells


@compiled
def _free_cells(count):  # type: ignore[no-untyped-def]
    return np.full((count, 3), FREE, np.int32)


@compiled
def _set(row, cell, depth, piece, end):  # type: ignore[no-untyped-def]
    row[0], row[1], row[2], row[3] = cell, depth, piece, end


@compiled
def _group(text, offsets, depth, piece, end, child_bytes, child_ends):  # type: ignore[no-untyped-def]
    """Group the sorted pieces [piece, end) by their byte at `depth`; returns the group count."""
    count = 0
    while piece < end:
        byte = text[offsets[piece] + depth]
        while piece < end and text[offsets[piece] + depth] == byte:
            piece += 1
        child_bytes[count] = byte
        child_ends[count] = piece
        count += 1
    return count


@compiled
def _first_fit(cells, gap, child_bytes):  # type: ignore[no-untyped-def]
    """Smallest CHILDREN value, from `gap` on, at which the cells of all children are free."""
    children = gap - child_bytes[0]
    while True:
        fits = True
        for byte in child_bytes:
            if cells[children + byte, PARENT] != FREE:
                fits = False
                break
        if fits:
            return children
        children += 1
