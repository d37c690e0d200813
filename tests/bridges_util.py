"""Tables to write into files of other programs, and the comparison of what comes back."""

import numpy as np

from ds_bert.instances.collate import collate
from ds_bert.instances.examples import examples


def assert_same(found, expected):
    """Two tables have the same instances, masks, labels and order."""
    assert len(found) == len(expected) > 40
    rows = np.arange(len(expected))
    for name, items in collate(expected, rows, rows * 0, 7)._asdict().items():
        assert np.array_equal(getattr(collate(found, rows, rows * 0, 7), name), items), name


def golden_examples(record):
    """The instances of a golden file as `Example` records, as plain dictionaries."""
    for words, border, positions, labels, is_random_next in record["instances"]:
        tokens = words.split(" ")
        yield {
            "tokens": tokens,
            "segment_ids": [0] * border + [1] * (len(tokens) - border),
            "masked_lm_positions": positions,
            "masked_lm_labels": labels.split(" "),
            "is_random_next": bool(is_random_next),
        }


def as_examples(table):
    """All instances of a table in words."""
    return list(examples(table))
