"""The frozen Unicode tables: unchanged, and what Python's own data gives."""

import unicodedata

import numpy as np
import pytest
from script_loader import load_script
from unicode_fuzz import ORDERED_MARKS

from ds_bert.tokenizer import unicode_tables
from ds_bert.tokenizer.unicode_tables import (
    BLANK,
    CASED,
    DROPPED,
    IGNORABLE,
    ISOLATED,
    NUM_CODE_POINTS,
    REPLACED,
    SPACE,
)

# Another hash is another tokenization: every data set made before is then of another kind.
SHA256 = "588872c83954541f71d6b780dd8105fda359022162ef21333ee131987f6f157c"


@pytest.fixture
def same_unicode():
    version = unicode_tables.load().version
    if unicodedata.unidata_version != version:
        pytest.skip(f"this Python has Unicode {unicodedata.unidata_version}, the tables {version}")


def test_tables_are_the_frozen_ones():
    tables = unicode_tables.load()
    assert (tables.version, tables.sha256) == ("14.0.0", SHA256)


def test_tables_have_one_entry_per_code_point():
    tables = unicode_tables.load()
    assert tables.cased_flags.shape == tables.uncased_flags.shape == (NUM_CODE_POINTS,)
    assert tables.replacement_starts.shape == (NUM_CODE_POINTS + 1,)
    assert tables.replacement_starts[-1] == len(tables.replacement_bytes)
    assert (np.diff(tables.replacement_starts) >= 0).all()


def test_only_replaced_characters_have_a_replacement():
    tables = unicode_tables.load()
    has_text = np.diff(tables.replacement_starts) > 0
    assert not (has_text & (tables.uncased_flags & REPLACED == 0)).any()
    assert not (tables.cased_flags & REPLACED).any()


@pytest.mark.parametrize(
    ("character", "cased", "uncased", "replacement"),
    [
        ("a", 0, CASED, ""),
        ("A", 0, CASED | REPLACED, "a"),
        ("7", 0, 0, ""),
        ("É", 0, CASED | REPLACED, "e"),
        ("\u0301", 0, IGNORABLE | REPLACED, ""),
        ("Σ", 0, CASED | REPLACED, "σ"),
        ("İ", 0, CASED | REPLACED, "i"),
        (".", ISOLATED, ISOLATED | IGNORABLE, ""),
        ("$", ISOLATED, ISOLATED, ""),
        ("\u037e", ISOLATED, ISOLATED | REPLACED, ";"),  # Greek question mark
        ("中", ISOLATED, ISOLATED, ""),
        ("\uf900", ISOLATED, ISOLATED | REPLACED, "豈"),
        ("\u2b81", 0, 0, ""),
        ("\t", SPACE | BLANK, SPACE | BLANK, ""),
        ("\u2028", SPACE | BLANK, SPACE | BLANK, ""),
        ("\r", DROPPED | BLANK, DROPPED | BLANK, ""),
        ("\x85", DROPPED | BLANK, DROPPED | BLANK, ""),
        ("\u200b", DROPPED, DROPPED, ""),
        ("\ufffd", DROPPED, DROPPED, ""),
        ("\ue000", 0, 0, ""),  # private use is kept
    ],
)
def test_characters(character, cased, uncased, replacement):
    tables = unicode_tables.load()
    code = ord(character)
    assert (tables.cased_flags[code], tables.uncased_flags[code]) == (cased, uncased)
    start, end = tables.replacement_starts[code : code + 2]
    assert tables.replacement_bytes[start:end].tobytes().decode() == replacement


def test_python_makes_the_same_tables(same_unicode):
    made = load_script("make_unicode_tables").build()
    with np.load(unicode_tables.PATH, allow_pickle=False) as frozen:
        assert set(made) == set(frozen.files)
        for name, array in made.items():
            np.testing.assert_array_equal(frozen[name], array, err_msg=name)


def test_marks_that_basic_tokenizer_does_not_order(same_unicode):
    assert len(ORDERED_MARKS) == 25
    assert {unicodedata.category(mark) for mark in ORDERED_MARKS} == {"Mc"}
    tables = unicode_tables.load()
    assert not any(tables.uncased_flags[ord(mark)] & (DROPPED | REPLACED) for mark in ORDERED_MARKS)
