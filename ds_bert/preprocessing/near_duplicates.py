"""Documents that are nearly the same as an earlier one.

Two documents are as similar as their sets of n-grams of tokens: what they share divided by what
there is (Jaccard). MinHash finds pairs that may be similar: of each document the least hash in each
of 80 bins of its n-grams, five of which make the key of a band. Pairs that share a key are compared
by their n-grams themselves, so nothing is called similar by chance.

Own code, since this runs over every text: datasketch needs 200 times the time (docs/data.md).

Sources: Broder 1997, "On the resemblance and containment of documents"; Li, Owen, Zhang 2012, "One
Permutation Hashing"; Shrivastava 2017, "Optimal Densification for Fast and Accurate Minwise
Hashing"; bands: Indyk, Motwani 1998, "Approximate Nearest Neighbors".
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
from ds_bert.dataset.documents import document_ranges
from ds_bert.dataset.format import Documents
from ds_bert.preprocessing.parallel import ordered_map
from ds_bert.progress import Progress
from ds_bert.rng.streams import mix

SIMILARITY = 0.8  # and above: nearly the same
NGRAM = 5  # tokens
# A pair of similarity s shares a key with probability 1 - (1 - s^5)^16: 0.8 99.8 %, 0.5 40 %.
_BANDS, _BAND_SIZE = 16, 5
_BINS = _BANDS * _BAND_SIZE
_MAX_LEADERS = 8  # documents of a bucket that the others are compared with
_IN_MEMORY = 2**17  # documents; keys of more, 128 bytes each, are kept in a file

_EMPTY = np.uint64(2**64 - 1)
_BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomial that hashes n-grams, odd
_LAST_POWER = np.uint64(pow(int(_BASE), NGRAM, 2**64))


def near_duplicates(
    documents: Documents, num_workers: int, folder: Path | None = None
) -> NDArray[np.bool_]:
    """Find documents of which there is an earlier one that is at least 0.8 similar.

    Args:
        documents: the text; it is gone through once, and where candidates are.
        num_workers: number of threads; of no effect on the result.
        folder: where to keep the keys of many documents; None: where temporary files are.

    Returns:
        for each document whether it is one, [D]. About 25 bytes a document are in memory.
    """
    num_documents = len(documents.token_offsets) - 1
    keys = _room_for_keys(num_documents, folder)

    def sign(part: tuple[int, int]) -> int:
        _sign(documents, *part, keys)
        return part[1]

    with Progress("near-duplicates") as progress:
        ranges = document_ranges(documents.sentence_offsets)
        for last in ordered_map(sign, ranges, num_workers):
            progress.update(last / num_documents / 2)
        found = np.zeros(num_documents, np.bool_)
        for number, band in enumerate(keys, 1):
            _compare_band(documents, band, found)
            progress.update(0.5 + number / _BANDS / 2)
    return found


def near_duplicate_figures(
    documents: Documents, num_workers: int, folder: Path | None = None
) -> dict[str, Any]:
    """How many there are, for the corpus report; arguments as for `near_duplicates`."""
    found = near_duplicates(documents, num_workers, folder)
    number = int(found.sum())
    share = round(number / max(1, len(found)), 6)
    return {"documents": number, "share": share, "similarity": SIMILARITY}


def _room_for_keys(num_documents: int, folder: Path | None) -> NDArray[np.uint64]:
    """An array [bands, D]; a large one lies in a file without a name."""
    shape = (_BANDS, num_documents)
    if num_documents <= _IN_MEMORY:
        return np.empty(shape, np.uint64)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the array
    os.posix_fallocate(file.fileno(), 0, 8 * _BANDS * num_documents)  # a full disk is told now
    return np.asarray(np.memmap(file, np.uint64, "r+", shape=shape))


def _compare_band(documents: Documents, keys: NDArray[np.uint64], found: NDArray[np.bool_]) -> None:
    """Compare documents that share a key, and add those that are similar to an earlier one."""
    numbers = np.flatnonzero(~found)
    keys = keys[numbers]
    order = np.argsort(keys, kind="stable")  # the earlier document first
    _compare(documents, keys[order], numbers[order], found)


@compiled
def _sign(documents, first, last, keys):  # type: ignore[no-untyped-def]
    """Keys of the documents `first` to `last` - 1 in all bands."""
    signature = np.empty(_BINS, np.uint64)
    is_filled = np.empty(_BINS, np.bool_)
    for document in range(first, last):
        _min_hashes(_tokens_of(documents, document), signature, is_filled)
        for band in range(_BANDS):
            key = np.uint64(band)
            for place in range(band * _BAND_SIZE, (band + 1) * _BAND_SIZE):
                key = mix(key ^ signature[place])
            keys[band, document] = key


@compiled
def _tokens_of(documents, document):  # type: ignore[no-untyped-def]
    start, stop = documents.token_offsets[document], documents.token_offsets[document + 1]
    return documents.tokens[np.int64(start) : np.int64(stop)]


@compiled
def _min_hashes(tokens, signature, is_filled):  # type: ignore[no-untyped-def]
    """The least hash of a document's n-grams in each bin; a short document is one n-gram."""
    signature[:] = _EMPTY
    value = np.uint64(0)
    for position in range(len(tokens)):
        value = _roll(value, tokens, position)
        if position >= NGRAM - 1 or position == len(tokens) - 1:
            key = mix(value)
            place = ((key >> np.uint64(32)) * np.uint64(_BINS)) >> np.uint64(32)
            signature[place] = min(signature[place], key)
    for place in range(_BINS):
        is_filled[place] = signature[place] != _EMPTY
    for place in range(_BINS):
        if not is_filled[place]:
            signature[place] = signature[_lender(place, is_filled)]


@compiled
def _roll(value, tokens, position):  # type: ignore[no-untyped-def]
    """Hash of the n-gram that ends at a position, from that of the one before."""
    value = value * _BASE + np.uint64(tokens[position]) + np.uint64(1)
    if position >= NGRAM:
        value -= (np.uint64(tokens[position - NGRAM]) + np.uint64(1)) * _LAST_POWER
    return value


@compiled
def _lender(place, is_filled):  # type: ignore[no-untyped-def]
    """The bin that an empty one borrows from: the same for any two documents that have both."""
    draw = np.uint64(place)
    while True:
        draw = mix(draw + _BASE)
        other = ((draw >> np.uint64(32)) * np.uint64(_BINS)) >> np.uint64(32)
        if is_filled[other]:
            return other


@compiled
def _compare(documents, keys, numbers, found):  # type: ignore[no-untyped-def]
    """Go through buckets of equal keys; documents of one are in the order of the text.

    The first one leads. Each other one is compared with the leaders so far; it is similar to one
    of them or becomes a leader itself, as long as there are few.
    """
    start = 0
    while start < len(numbers):
        stop = start + 1
        while stop < len(numbers) and keys[stop] == keys[start]:
            stop += 1
        if stop - start > 1:
            _compare_bucket(documents, numbers[start:stop], found)
        start = stop


@compiled
def _compare_bucket(documents, numbers, found):  # type: ignore[no-untyped-def]
    leaders = [_tokens_of(documents, numbers[0])]
    sets = [_ngrams(leaders[0])]
    for number in numbers[1:]:
        tokens = _tokens_of(documents, number)
        for leader in leaders:
            if _are_equal(leader, tokens):
                found[number] = True
                break
        if found[number]:
            continue
        ngrams = _ngrams(tokens)
        for other in sets:
            if _similarity(other, ngrams) >= SIMILARITY:
                found[number] = True
                break
        if not found[number] and len(leaders) < _MAX_LEADERS:
            leaders.append(tokens)
            sets.append(ngrams)


@compiled
def _are_equal(tokens, others):  # type: ignore[no-untyped-def]
    if len(tokens) != len(others):
        return False
    position = 0
    while position < len(tokens) and tokens[position] == others[position]:
        position += 1
    return position == len(tokens)


@compiled
def _ngrams(tokens):  # type: ignore[no-untyped-def]
    """Hashes of a document's n-grams, ascending, each once."""
    hashes = np.empty(max(1, len(tokens) - NGRAM + 1), np.uint64)
    value = np.uint64(0)
    for position in range(len(tokens)):
        value = _roll(value, tokens, position)
        hashes[max(0, position - NGRAM + 1)] = mix(value)
    hashes.sort()
    size = 1
    for position in range(1, len(hashes)):
        if hashes[position] != hashes[size - 1]:
            hashes[size] = hashes[position]
            size += 1
    return hashes[:size]


@compiled
def _similarity(some, others):  # type: ignore[no-untyped-def]
    """What two ascending sets share, divided by what there is in either."""
    place = other = shared = 0
    while place < len(some) and other < len(others):
        one, two = some[place], others[other]
        shared += one == two
        place += one <= two
        other += two <= one
    return shared / (len(some) + len(others) - shared)
