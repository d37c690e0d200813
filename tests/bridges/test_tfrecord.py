"""Google's TFRecord files, against one that TensorFlow wrote, and against what damages them."""

import gzip
import struct

import numpy as np
import pytest
from bridges_util import as_examples
from data_util import read_json

from ds_bert.bridges.example import FEATURES, decode
from ds_bert.bridges.exporting import export
from ds_bert.bridges.importing import ImportOptions, import_data_set
from ds_bert.bridges.tfrecord import masked_crc
from ds_bert.dataset.store import TokenStore
from ds_bert.dataset.verify import verify
from ds_bert.errors import DataError

NAME = "intl_uncased_s64_d1_wwm0"
WEIGHTS, LABELS = "masked_lm_weights", "next_sentence_labels"


def imported(path, tmp_path, vocabulary, **options):
    folder = tmp_path / "imported"
    import_data_set([path], folder, vocabulary, ImportOptions(**options))
    return TokenStore.open(folder)


def frames(data):
    """The records of a file, by the plain rules of the format."""
    place, found = 0, []
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        found.append(data[place : place + length + 16])
        place += length + 16
    return found


def frame(message):
    length = struct.pack("<Q", len(message))
    crcs = [struct.pack("<I", masked_crc(part)) for part in (length, message)]
    return length + crcs[0] + message + crcs[1]


def varint(number):
    low, number = number & 127, number >> 7
    return bytes([low | 128]) + varint(number) if number else bytes([low])


def field(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def message(row, is_packed=True, order=FEATURES, more=b""):
    """An Example, in one of the ways in which it may be written."""
    entries = b""
    for name in order:
        if name == WEIGHTS:
            values = [struct.pack("<f", value) for value in row[name]]
            single, kind = [b"\x0d" + value for value in values], 2
        else:
            values = [varint(value & (2**64 - 1)) for value in row[name]]
            single, kind = [field(1, value & (2**64 - 1)) for value in row[name]], 3
        numbers = field(1, b"".join(values)) if is_packed else b"".join(single)
        entry = [field(1, name.encode()), field(2, field(kind, numbers))]
        entries += field(1, b"".join(entry if is_packed else entry[::-1]))
    return field(1, entries + more)


@pytest.fixture(scope="module")
def google_file(golden):
    return golden / "tfrecord" / f"{NAME}.tfrecord"


@pytest.fixture(scope="module")
def rows(golden):
    """Its content, decoded by TensorFlow."""
    return read_json(golden / "tfrecord" / f"{NAME}.json.gz")["records"]


def test_what_tensorflow_wrote(google_file, golden, tmp_path, vocabulary):
    """The words of the golden instances that it was made of, and padding that is as wide."""
    store = imported(google_file, tmp_path, vocabulary)
    assert verify(store) == 8
    found = store.instances(64)
    expected = read_json(golden / f"{NAME}.json.gz")["instances"]
    for example, (words, border, positions, labels, is_random_next) in zip(
        as_examples(found), expected, strict=True
    ):
        assert example.tokens == words.split(" ")
        assert example.segment_ids.index(1) == border
        assert example.masked_lm_positions == positions
        assert example.masked_lm_labels == labels.split(" ")
        assert example.is_random_next == bool(is_random_next)


def test_every_number_that_tensorflow_wrote(google_file, rows):
    content = google_file.read_bytes()
    records = frames(content)
    assert all(record == frame(record[12:-4]) for record in records), "checksums"
    starts = np.cumsum([0, *map(len, records)])[:-1] + 12
    ends = starts + [len(record) - 16 for record in records]
    values, first, counts, sound = decode(np.frombuffer(content, np.uint8), starts, ends)
    assert sound.all()
    for number, name in enumerate(FEATURES):
        for row, expected in enumerate(rows):
            start = first[number, row]
            assert values[start : start + counts[number, row]].tolist() == expected[name]


def test_ours_is_what_google_wrote(google_file, rows, tmp_path, vocabulary):
    """Written from the imported instances: the same numbers, valid checksums."""
    store = imported(google_file, tmp_path, vocabulary)
    export(store, None, "tfrecord", [tmp_path / "ours.tfrecord"])
    records = frames((tmp_path / "ours.tfrecord").read_bytes())
    assert records == [frame(message(row)) for row in rows]


@pytest.mark.parametrize("num_files", [1, 3])
def test_round_trip(num_files, golden_table, tmp_path, vocabulary):
    paths = [tmp_path / f"{number}.tfrecord" for number in range(num_files)]
    export(golden_table.store, 64, "tfrecord", paths)
    order = np.concatenate([np.arange(n, len(golden_table), num_files) for n in range(num_files)])
    import_data_set(paths, tmp_path / "back", vocabulary)
    found = as_examples(TokenStore.open(tmp_path / "back").instances(64))
    expected = as_examples(golden_table)
    assert found == [expected[number] for number in order]


def test_masked_lm_alone(mlm_table, tmp_path, vocabulary):
    export(mlm_table.store, 64, "tfrecord", [tmp_path / "x.tfrecord"])
    found = imported(tmp_path / "x.tfrecord", tmp_path, vocabulary).instances(64)
    assert found.options.objective == "mlm"
    assert as_examples(found) == as_examples(mlm_table)


def test_every_way_to_write_an_example(rows, golden, google_file, tmp_path, vocabulary):
    """Numbers one by one, features in another order and unknown ones, a name after its value."""
    more = field(1, field(1, b"extra") + field(2, field(1, field(1, b"bytes")))) + field(9, 7)
    path = tmp_path / "x.tfrecord.gz"
    messages = (message(row, False, FEATURES[::-1], more) for row in rows)
    path.write_bytes(gzip.compress(b"".join(map(frame, messages))))
    found = imported(path, tmp_path, vocabulary)
    import_data_set([google_file], tmp_path / "google", vocabulary)
    expected = TokenStore.open(tmp_path / "google")
    assert as_examples(found.instances(64)) == as_examples(expected.instances(64))


def flip(record, place):
    changed = bytearray(record)
    changed[place] ^= 1
    return bytes(changed)


def changed(**features):
    return lambda row: frame(message({**row, **features}))


DAMAGE = {
    "length": (
        lambda row: flip(frame(message(row)), 0),
        "checksum of its length is wrong; nothing",
    ),
    "data": (lambda row: flip(frame(message(row)), 100), "the checksum of its data is wrong"),
    "crc": (lambda row: flip(frame(message(row)), -1), "the checksum of its data is wrong"),
    "no message": (lambda row: frame(b"\xff" * 30), "its data are no tf.train.Example"),
    "cut message": (lambda row: frame(message(row)[:-9]), "its data are no tf.train.Example"),
    "empty": (lambda row: frame(b""), "it lacks input_ids, input_mask, segment_ids"),
    "absent": (
        lambda row: frame(message(row, order=[f for f in FEATURES if f != WEIGHTS])),
        "it lacks masked_lm_weights",
    ),
    "two labels": (changed(next_sentence_labels=[0, 1]), "one number in next_sentence_labels"),
    "label": (changed(next_sentence_labels=[2]), "expected a next-sentence label of 0 or 1"),
    "mask": (changed(input_mask=[1, 0, 1]), "expected a mask of ones for the tokens and zeros"),
    "weight": (changed(masked_lm_weights=[0.5]), "expected a mask of ones"),
    "short": (changed(segment_ids=[0]), "expected a segment id for every token"),
    "few labels": (changed(masked_lm_ids=[]), "expected as many labels as masked positions"),
    "label id": (changed(masked_lm_ids=[5000] * 10), "expected token ids from 0 to below 1,500"),
    "negative": (changed(masked_lm_ids=[-1] * 10), "expected token ids from 0 to below 1,500"),
    "not ascending": (changed(masked_lm_positions=[3] * 10), "expected ascending masked positions"),
    "long": (
        changed(input_ids=[2] * 80, input_mask=[1] * 80, segment_ids=[0] * 80),
        "expected at most 64 tokens",
    ),
    "no [CLS]": (changed(input_ids=[7] * 64), r"expected \[CLS\] as first token"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_records_are_named_and_left_out(kind, rows, tmp_path, vocabulary):
    change, problem = DAMAGE[kind]
    records = [frame(message(row)) for row in rows]
    records[6] = change(rows[6])
    path = tmp_path / "x.tfrecord"
    path.write_bytes(b"".join(records))
    with pytest.raises(DataError, match=rf"x.tfrecord, record 7: .*{problem}"):
        imported(path, tmp_path, vocabulary)
    assert [each.name for each in tmp_path.iterdir()] == ["x.tfrecord"]
    store = imported(path, tmp_path, vocabulary, skip_damaged=True)
    num_lost = len(rows) - 6 if "nothing" in problem else 1
    assert len(store.instances(64)) == len(rows) - num_lost
    assert store.meta["left_out"]["number"] == 1


@pytest.mark.parametrize("num_bytes", [1, 5, 20, 300])
def test_a_file_that_was_cut(num_bytes, rows, tmp_path, vocabulary):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(b"".join(frame(message(row)) for row in rows)[:-num_bytes])
    match = rf"record {len(rows)}: the file ends inside of it"
    with pytest.raises(DataError, match=match):
        imported(path, tmp_path, vocabulary)
    store = imported(path, tmp_path, vocabulary, skip_damaged=True)
    assert len(store.instances(64)) == len(rows) - 1


def test_no_tfrecord(tmp_path, vocabulary):
    (tmp_path / "x.tfrecord").write_bytes(b"any other bytes")
    with pytest.raises(DataError, match=r"x.tfrecord is none of tfrecord, hdf5, jsonl, datasets"):
        imported(tmp_path / "x.tfrecord", tmp_path, vocabulary)
    (tmp_path / "x.tfrecord").write_bytes(b"")
    with pytest.raises(DataError, match="hold no instance"):
        imported(tmp_path / "x.tfrecord", tmp_path, vocabulary, format="tfrecord")
