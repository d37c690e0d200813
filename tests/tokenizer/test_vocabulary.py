"""Vocabulary files: Google's reading rules, hashes, errors, saving."""

import hashlib

import numpy as np
import pytest
import unicode_fuzz

from ds_bert.errors import ConfigurationError, DataError
from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

LINES = [*SPECIAL_TOKENS, "the", "##s"]


def google_ids(content: bytes) -> dict[str, int]:
    """The rules of Google's load_vocab, in their own form."""
    ids: dict[str, int] = {}
    for index, line in enumerate(content.decode().replace("\r", "").splitlines(keepends=True)):
        ids[line.strip()] = index
    return ids


def test_read_the_golden_vocabularies(golden):
    for name, size in (("uncased_vocab.txt", 1500), ("cased_vocab.txt", 1500)):
        path = golden / "vocab" / name
        vocabulary = Vocabulary.read(path)
        assert vocabulary.size == size and not vocabulary.duplicates
        assert vocabulary.ids == google_ids(path.read_bytes())
        assert vocabulary.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert [vocabulary.pad_id, vocabulary.unk_id, vocabulary.cls_id] == [0, 1, 2]
        assert [vocabulary.sep_id, vocabulary.mask_id] == [3, 4]


def test_read_the_released_vocabularies(shared):
    sizes = {}
    for path in (shared / "vocab").glob("*.txt"):
        vocabulary = Vocabulary.read(path)
        lines = path.read_bytes().decode().removesuffix("\n").split("\n")
        # Two files have U+2028 as an entry, which is white space: a blank line for Google.
        assert vocabulary.tokens == tuple(line.replace("\u2028", "") for line in lines)
        # What the docstring of basic_tokenizer says about marks in another order.
        assert not unicode_fuzz.ORDERED_MARKS & set("".join(vocabulary.tokens))
        sizes[path.name.removeprefix("bert-base-").removesuffix("-vocab.txt")] = vocabulary.size
    assert sizes == {
        "uncased": 30522,
        "cased": 28996,
        "chinese": 21128,
        "multilingual-cased": 119547,
        "multilingual-uncased": 105879,
    }


def test_white_space_and_carriage_returns_around_tokens_vanish(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join([*LINES, "\u3000 a\u00a0", "", "b"]).encode() + b"\r\n")
    vocabulary = Vocabulary.read(path)
    assert vocabulary.tokens == (*LINES, "a", "", "b")
    assert vocabulary.ids["b"] == 9  # the blank line counts


def test_a_missing_last_line_feed_changes_nothing(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(LINES))
    assert Vocabulary.read(path).tokens == tuple(LINES)


def test_a_duplicate_has_its_first_place_and_its_last_id():
    vocabulary = Vocabulary([*LINES, "the", "end"])
    assert vocabulary.duplicates == ["the"]
    assert vocabulary.ids["the"] == 7
    assert vocabulary.replacement_ids.tolist() == [0, 1, 2, 3, 4, 7, 6, 8]
    assert vocabulary.size == 9


def test_continuations_and_types():
    vocabulary = Vocabulary([*LINES, "#", "##"])
    assert vocabulary.is_continuation.tolist() == [False] * 6 + [True, False, True]
    assert vocabulary.token_dtype == np.uint16
    assert Vocabulary([*LINES, *map(str, range(2**16 - 7))]).token_dtype == np.uint16
    assert Vocabulary([*LINES, *map(str, range(2**16 - 6))]).token_dtype == np.uint32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"[PAD]\n[UNK]\n[SEP]\n", r"lacks \[CLS\] \[MASK\]"),
        (b"[PAD]\n\xff\n", "not UTF-8 .byte 6"),
        ("\n".join(LINES).encode("utf-16"), "not UTF-8"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        Vocabulary.read(path)
    assert str(path) in str(error.value)


def test_a_missing_file_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(DataError, match="ds-bert create-vocab"):
        Vocabulary.read(tmp_path / "none.txt")


def test_a_token_with_a_line_break_is_refused():
    with pytest.raises(DataError, match="line break"):
        Vocabulary([*LINES, "a\nb"])


def test_save_and_read(tmp_path):
    vocabulary = Vocabulary([*LINES, "", "中", "the"])
    path = tmp_path / "new" / "vocab.txt"
    vocabulary.save(path)
    assert path.read_bytes() == vocabulary.content
    assert Vocabulary.read(path).tokens == vocabulary.tokens
    assert [file.name for file in path.parent.iterdir()] == ["vocab.txt"]


def test_save_new_replaces_only_on_request(tmp_path):
    path = tmp_path / "vocab.txt"
    first, second = Vocabulary(LINES), Vocabulary([*LINES, "more"])
    assert first.save_new(path, overwrite=False)
    assert not first.save_new(path, overwrite=False)
    with pytest.raises(ConfigurationError, match="--overwrite"):
        second.save_new(path, overwrite=False)
    assert path.read_bytes() == first.content
    assert second.save_new(path, overwrite=True)
    assert path.read_bytes() == second.content


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(ConfigurationError, match="cannot write"):
        Vocabulary(LINES).save(blocked / "vocab.txt")
    with pytest.raises(ConfigurationError, match="cannot write"):
        Vocabulary(LINES).save_new(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
