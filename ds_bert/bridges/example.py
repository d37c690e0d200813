"""TensorFlow's `Example` messages with the seven features of Google's pre-training data.

A message in the wire format of protocol buffers is a row of fields: a varint that is 8 times the
field's number plus the kind of its value (0: a varint, 1 and 5: 8 and 4 bytes, 2: a varint n and n
bytes), and the value. An Example holds in field 1 a Features message, and that in field 1 an entry
for each feature: its name in field 1, in field 2 a Feature with a list of floats (field 2) or
integers (field 3), whose values are field 1, one by one or packed.

Sources: protobuf.dev, "Encoding"; tensorflow/core/example/{example,feature}.proto;
google-research/bert, create_pretraining_data.py (`write_instance_to_example_files`).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled

FEATURES = (
    "input_ids",
    "input_mask",
    "segment_ids",
    "masked_lm_positions",
    "masked_lm_ids",
    "masked_lm_weights",
    "next_sentence_labels",
)
_WEIGHTS = FEATURES.index("masked_lm_weights")  # the only one of floats
_NAMES = np.zeros((len(FEATURES), 32), np.uint8)  # a name, then zeros
for _row, _name in zip(_NAMES, FEATURES, strict=True):
    _row[: len(_name)] = np.frombuffer(_name.encode(), np.uint8)
_SIZES = np.array([len(name) for name in FEATURES])
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_ONE = 0x3F800000  # the bits of 1.0
BAD_WEIGHT = 2  # instead of a weight that is neither 0.0 nor 1.0


def decode(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Read Examples.

    Args:
        data: uint8, bytes of N messages.
        starts: int64 [N], first byte of each.
        ends: int64 [N], the byte behind each.

    Returns:
        values int64, all numbers that were found (of weights 1 or 0, or `BAD_WEIGHT`); int64 [7, N]
        twice: where those of each feature start, and how many there are, -1 if it is absent; and
        bool [N], whether the message could be read.
    """
    values = np.empty(int((ends - starts).sum()), np.int64)  # a number takes a byte or more
    first, counts = np.zeros((2, len(FEATURES), len(starts)), np.int64)
    counts[:] = -1
    sound = np.zeros(len(starts), np.bool_)
    _decode(data, starts, ends, _NAMES, _SIZES, values, first, counts, sound)
    return values, first, counts, sound


@compiled
def _decode(data, starts, ends, names, sizes, values, first, counts, sound):
    num_values = 0
    for row in range(len(starts)):
        sound[row] = True
        place = starts[row]
        while place < ends[row] and sound[row]:
            number, start, stop, place = _field(data, place, ends[row])
            sound[row] = place >= 0
            while number == 1 and 0 <= start < stop and sound[row]:  # Features
                entry, low, high, start = _field(data, start, stop)
                sound[row] = start >= 0
                if entry == 1 and start >= 0:
                    after = _entry(
                        data, low, high, names, sizes, values, num_values, first, counts, row
                    )
                    sound[row] = after >= 0
                    num_values = max(num_values, after)
        if not sound[row]:
            counts[:, row] = -1


@compiled
def _entry(data, place, end, names, sizes, values, num_values, first, counts, row):
    """Read one feature; returns the number of values then, -1 for bytes that are no message."""
    feature, low, high = -1, 0, 0
    while place < end:
        number, start, stop, place = _field(data, place, end)
        if place < 0:
            return -1
        if number == 1:
            feature = _find(data, start, stop, names, sizes)
        elif number == 2:
            low, high = start, stop
    if feature < 0:
        return num_values  # another feature, or none
    first[feature, row], counts[feature, row] = num_values, 0
    while low < high:
        kind, start, stop, low = _field(data, low, high)
        if low < 0:
            return -1
        while start < stop and kind > 1:
            number, begin, finish, start = _field(data, start, stop)
            if start < 0 or number != 1:
                return -1
            num_values = _numbers(data, begin, finish, kind == 2, values, num_values)
            if num_values < 0:
                return -1
    counts[feature, row] = num_values - first[feature, row]
    return num_values


@compiled
def _numbers(data, place, end, are_floats, values, num_values):
    """Read the numbers of a value, packed or a single one."""
    while place < end:
        if are_floats:
            if end - place < 4:
                return -1
            bits = np.int64(0)
            for number in range(4):
                bits |= np.int64(data[place + number]) << (8 * number)
            values[num_values] = 1 if bits == _ONE else 0 if bits == 0 else BAD_WEIGHT
            place += 4
        else:
            values[num_values], place = _varint(data, place, end)
            if place < 0:
                return -1
        num_values += 1
    return num_values


@compiled
def _field(data, place, end):
    """Number of the field at a place, where its value starts and ends, and the next field's place.

    A place of -1 stands for bytes that are no field.
    """
    tag, place = _varint(data, place, end)
    start, kind = place, tag & 7
    if place < 0:
        return -1, 0, 0, -1
    if kind == _VARINT:
        _, place = _varint(data, place, end)
    elif kind == _EIGHT_BYTES:
        place += 8
    elif kind == _FOUR_BYTES:
        place += 4
    elif kind == _BYTES:
        size, start = _varint(data, place, end)
        place = start + size if start >= 0 and 0 <= size <= end - start else -1
    else:
        place = -1
    if place < 0 or place > end:
        return -1, 0, 0, -1
    return tag >> 3, start, place, place


@compiled
def _varint(data, place, end):
    """The number at a place, and the place behind it; -1 for bytes that are none."""
    value, shift = np.uint64(0), np.uint64(0)
    while place < end and shift < 70:
        byte = np.uint64(data[place])
        value |= (byte & np.uint64(127)) << shift
        place += 1
        if byte < 128:
            return np.int64(value), place
        shift += np.uint64(7)
    return np.int64(0), -1


@compiled
def _find(data, start, stop, names, sizes):
    """Which feature has the name in these bytes; -1: none."""
    for feature in range(len(sizes)):
        if stop - start == sizes[feature]:
            same = True
            for place in range(sizes[feature]):
                same &= data[start + place] == names[feature, place]
            if same:
                return feature
    return -1


def encode(arrays: Mapping[str, NDArray[np.int32]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Write Examples as Google's script has them, numbers packed.

    Args:
        arrays: int32 [N, any] by the names of the features, `next_sentence_labels` [N].

    Returns:
        bytes of all messages in a row, and int64 [N + 1]: where each begins, and the end.
    """
    num_rows = len(arrays["next_sentence_labels"])
    widths = [arrays[name].reshape(num_rows, -1).shape[1] for name in FEATURES]
    bounds = np.cumsum([0, *widths])
    numbers = np.concatenate([arrays[name].reshape(num_rows, -1) for name in FEATURES], axis=1)
    # A number takes 5 bytes at most (32 bits), what is around a list less than 64.
    data = np.empty(num_rows * (5 * int(bounds[-1]) + 64 * len(FEATURES)), np.uint8)
    ends = np.zeros(num_rows + 1, np.int64)
    _encode(numbers, bounds, _NAMES, _SIZES, data, ends)
    return data[: ends[-1]], ends


@compiled
def _encode(numbers, bounds, names, sizes, data, ends):
    place = 0
    lists, entries = np.empty((2, len(sizes)), np.int64)
    for row in range(len(numbers)):
        total = 0
        for feature in range(len(sizes)):
            lists[feature] = _list_size(numbers[row], bounds, feature)
            # Around it: tag and size of the values, of the list and of the Feature.
            inner = _with_tag(_with_tag(lists[feature]))
            entries[feature] = _with_tag(sizes[feature]) + _with_tag(inner)
            total += _with_tag(entries[feature])
        place = _put_head(data, place, 1, total)  # Features in Example
        for feature in range(len(sizes)):
            place = _put_head(data, place, 1, entries[feature])
            place = _put_head(data, place, 1, sizes[feature])
            for letter in range(sizes[feature]):
                data[place + letter] = names[feature, letter]
            place += sizes[feature]
            values = _with_tag(lists[feature])
            place = _put_head(data, place, 2, _with_tag(values))
            place = _put_head(data, place, 2 if feature == _WEIGHTS else 3, values)
            place = _put_head(data, place, 1, lists[feature])
            for number in numbers[row, bounds[feature] : bounds[feature + 1]]:
                if feature == _WEIGHTS:
                    data[place : place + 4] = 0
                    if number:  # 1.0, little-endian
                        data[place + 2], data[place + 3] = 0x80, 0x3F
                    place += 4
                else:
                    place = _put_varint(data, place, number)
        ends[row + 1] = place


@compiled
def _list_size(numbers, bounds, feature):
    if feature == _WEIGHTS:
        return 4 * (bounds[feature + 1] - bounds[feature])
    size = 0
    for number in numbers[bounds[feature] : bounds[feature + 1]]:
        size += _varint_size(number)
    return size


@compiled
def _varint_size(number):
    size = 1
    while number >= 128:
        number >>= 7
        size += 1
    return size


@compiled
def _with_tag(size):
    """Bytes of a field that holds so many."""
    return 1 + _varint_size(size) + size


@compiled
def _put_head(data, place, number, size):
    """Write the tag of a field of bytes, and their number."""
    data[place] = number << 3 | _BYTES
    return _put_varint(data, place + 1, size)


@compiled
def _put_varint(data, place, number):
    while number >= 128:
        data[place] = number & 127 | 128
        place += 1
        number >>= 7
    data[place] = number
    return place + 1
