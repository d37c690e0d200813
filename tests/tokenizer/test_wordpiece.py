"""Tokenization against Google's recorded results and against the plain-Python reference."""

import gzip
import json
import random
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import reference_tokenizer as reference
import unicode_fuzz

from ds_bert.tokenizer import unicode_tables
from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary
from ds_bert.tokenizer.wordpiece import EncodedText, WordPieceTokenizer

WORDS = ["the", "cat", "##s", "##at", "a", "##a", "σας", "σασ", "e", "##e"]
WORDS += ["[", "]", "mask", "中", "."]
SAMPLE_BYTES = 40_000
RELEASED = {
    "bert-base-uncased-vocab.txt": True,
    "bert-base-cased-vocab.txt": False,
    "bert-base-multilingual-cased-vocab.txt": False,
    "bert-base-chinese-vocab.txt": True,
}


def make_tokenizer(*words: str, do_lower_case: bool = True) -> WordPieceTokenizer:
    return WordPieceTokenizer(Vocabulary([*SPECIAL_TOKENS, *(words or WORDS)]), do_lower_case)


def as_documents(encoded: EncodedText, vocabulary: Vocabulary) -> list[list[list[str]]]:
    """Documents as lists of sentences, sentences as lists of tokens."""
    tokens = [vocabulary.tokens[index] for index in encoded.tokens]
    ends = encoded.sentence_ends.tolist()
    sentences = [tokens[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    ends = encoded.document_ends.tolist()
    return [sentences[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def documents(text: str | bytes, tokenizer: WordPieceTokenizer) -> list[list[list[str]]]:
    data = text.encode() if isinstance(text, str) else text
    return as_documents(tokenizer.encode(data), tokenizer.vocabulary)


def expected_documents(text: bytes, vocabulary: Vocabulary, do_lower_case: bool):
    return reference.read_documents(
        text, lambda line: reference.tokenize(line, vocabulary.ids, do_lower_case)
    )


def check_recorded(folder: Path) -> int:
    """Compare with the recorded tokens of a folder of golden vectors; returns their number."""
    rows = json.loads(gzip.decompress((folder / "tokenizer_vectors.json.gz").read_bytes()))["rows"]

    @cache
    def tokenizer(name: str, do_lower_case: bool) -> WordPieceTokenizer:
        path = folder / "vocab" / name
        if path.exists():
            return WordPieceTokenizer(Vocabulary.read(path), do_lower_case)
        text = gzip.decompress(path.with_name(name + ".gz").read_bytes()).decode()
        return WordPieceTokenizer(Vocabulary(text.removesuffix("\n").split("\n")), do_lower_case)

    @cache
    def lines(name: str) -> list[str]:
        return (folder / "inputs" / name).read_bytes().decode().split("\n")

    for name, do_lower_case, file, number, tokens in rows:
        found = tokenizer(name, bool(do_lower_case)).tokenize(lines(file)[number].strip())
        assert found == tokens, (name, file, number)
    return len(rows)


def test_equals_google_on_our_texts(golden):
    assert check_recorded(golden) == 534


def test_equals_google_on_real_texts(shared):
    assert check_recorded(shared / "golden" / "google") == 1143


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_documents_of_the_golden_inputs(golden, do_lower_case):
    name = "uncased_vocab.txt" if do_lower_case else "cased_vocab.txt"
    vocabulary = Vocabulary.read(golden / "vocab" / name)
    tokenizer = WordPieceTokenizer(vocabulary, do_lower_case)
    for path in sorted((golden / "inputs").glob("*.txt")):
        text = path.read_bytes()
        expected = expected_documents(text, vocabulary, do_lower_case)
        assert expected and documents(text, tokenizer) == expected, path.name


@pytest.mark.parametrize("name", RELEASED)
def test_equals_the_reference_on_samples_of_real_corpora(shared, name):
    """The whole corpora were compared once (docs); here 40 kB from the middle of each."""
    vocabulary = Vocabulary.read(shared / "vocab" / name)
    tokenizer = WordPieceTokenizer(vocabulary, RELEASED[name])
    for path in sorted((shared / "corpus").glob("*.txt")):
        with open(path, "rb") as file:
            file.seek(path.stat().st_size // 2)
            file.readline()  # the rest of a line
            text = file.read(SAMPLE_BYTES) + file.readline()
        expected = expected_documents(text, vocabulary, RELEASED[name])
        assert expected and documents(text, tokenizer) == expected, path.name


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_equals_the_reference_on_fuzzed_unicode(do_lower_case):
    version = unicode_tables.load().version
    if unicodedata.unidata_version != version:
        pytest.skip(f"the reference has Unicode {unicodedata.unidata_version}, not {version}")
    generator = random.Random(20 + do_lower_case)
    for _ in range(4):
        pool = unicode_fuzz.random_pool(generator, 1500)
        vocabulary = unicode_fuzz.alphabet_vocabulary(pool, do_lower_case)
        tokenizer = WordPieceTokenizer(vocabulary, do_lower_case)
        text = unicode_fuzz.random_lines(generator, pool, 600)
        assert documents(text, tokenizer) == expected_documents(text, vocabulary, do_lower_case)


def test_equals_the_reference_on_invalid_bytes():
    generator = random.Random(7)
    odd_bytes = b"\x80\xbf\xc0\xc3\xe0\xed\xf0\xf5\xff"
    tokenizer = make_tokenizer()
    for _ in range(300):
        text = bytearray("The cats sát. 中 ΑΣ\n\n".encode() * 3)
        for _ in range(generator.randrange(1, 6)):
            text[generator.randrange(len(text))] = generator.choice(odd_bytes)
        encoded = tokenizer.encode(bytes(text))
        expected = expected_documents(bytes(text), tokenizer.vocabulary, True)
        assert as_documents(encoded, tokenizer.vocabulary) == expected
        kept = text.decode("utf-8", "ignore").encode()
        assert encoded.num_invalid_bytes == len(text) - len(kept)
        assert encoded.first_invalid_byte == first_invalid_byte(bytes(text))


def first_invalid_byte(text: bytes) -> int:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start
    return -1


@pytest.mark.parametrize(
    "invalid", [b"\x80", b"\xc0\xaf", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff"]
)
def test_invalid_utf8_is_left_out_and_reported(invalid):
    encoded = make_tokenizer().encode(b"the c" + invalid + b"at")
    assert encoded.tokens.tolist() == [5, 6]
    assert (encoded.first_invalid_byte, encoded.num_invalid_bytes) == (5, len(invalid))


def test_words_of_more_than_200_characters_are_unknown():
    tokenizer = make_tokenizer()
    assert tokenizer.tokenize("a" * 200) == ["a"] + ["##a"] * 199
    assert tokenizer.tokenize("a" * 201) == ["[UNK]"]
    # Characters count, not bytes, and they count after the accents are gone.
    assert tokenizer.tokenize("e\u0301" * 200) == ["e"] + ["##e"] * 199
    assert tokenizer.tokenize("\N{LATIN SMALL LETTER E WITH ACUTE}" * 201) == ["[UNK]"]
    assert tokenizer.tokenize("a" * 150 + "." + "a" * 150).count("[UNK]") == 0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("ΣΑΣ", ["σας"]),
        ("ΣΑΣ.", ["σας", "."]),  # a full stop is passed over when the end is looked for
        ("ΣΑΣ.a", ["σασ", ".", "a"]),
        ("Σ", ["[UNK]"]),  # σ alone: no cased character before it
        ("ΣΑΣ\u0301", ["σας"]),
        ("ΣΑΣ\u200b a", ["σας", "a"]),
        ("ΣΑΣ中", ["σας", "中"]),
        ("ΣΑΣ\nA", ["σας", "a"]),
    ],
)
def test_final_sigma(text, tokens):
    assert make_tokenizer().tokenize(text) == tokens


def test_carriage_returns_vanish():
    tokenizer = make_tokenizer()
    assert documents("the\rcat\r\n\r\nthe cat\r\r\n", tokenizer) == [[["[UNK]"]], [["the", "cat"]]]
    assert documents("c\rat the", tokenizer) == [[["cat", "the"]]]


BLANK_LINES = ["", " \t", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c\v\f", "\r"]


@pytest.mark.parametrize("blank", BLANK_LINES)
def test_lines_blank_for_unicode_end_a_document(blank):
    assert documents(f"the\n{blank}\ncat", make_tokenizer()) == [[["the"]], [["cat"]]]


@pytest.mark.parametrize("nothing", ["\u200b", "\ufeff", "\0", "\ufffd", "\u0301", " \x01 "])
def test_lines_of_characters_without_tokens_are_neither_sentence_nor_border(nothing):
    assert documents(f"the\n{nothing}\ncat", make_tokenizer()) == [[["the"], ["cat"]]]


def test_unicode_separators_inside_a_line_divide_words_and_controls_join_them():
    tokenizer = make_tokenizer()
    assert tokenizer.tokenize("the\u2028cat\u3000a") == ["the", "cat", "a"]
    assert tokenizer.tokenize("c\x85a\x0bt") == ["cat"]


def test_text_cannot_make_special_tokens():
    assert make_tokenizer().tokenize("[MASK] [PAD]") == ["[", "mask", "]", "[", "[UNK]", "]"]


def test_odd_vocabulary_entries_are_harmless():
    words = ["", "##", "#", "the cat", "c\u00a0d", "##a b", "c", "\x01", "##\x02", "##d", "##d"]
    tokenizer = make_tokenizer(*words, do_lower_case=False)
    first = len(SPECIAL_TOKENS)
    encoded = tokenizer.encode(b"cd ## the cat c")
    # The second "##d" has the id, as in a dictionary; "##" is punctuation, so never a piece.
    expected = [first + 6, first + 10, first + 2, first + 2, 1, 1, first + 6]
    assert encoded.tokens.tolist() == expected
    assert (encoded.num_words, encoded.num_unknown) == (6, 2)


def test_a_vocabulary_without_continuations():
    assert make_tokenizer("cat").tokenize("cat cats CAT.") == ["cat", "[UNK]", "cat", "[UNK]"]


@pytest.mark.parametrize("text", [b"", b"\n", b"\n\n \n", b"\xff", "\u200b".encode()])
def test_no_token_at_all(text):
    encoded = make_tokenizer().encode(text)
    assert len(encoded.tokens) == len(encoded.sentence_ends) == len(encoded.document_ends) == 0


def test_blocks_cut_after_blank_lines_give_the_same_as_the_whole(golden):
    tokenizer = WordPieceTokenizer(Vocabulary.read(golden / "vocab" / "uncased_vocab.txt"), True)
    text = (golden / "inputs" / "en_b.txt").read_bytes()
    cuts = [index + 2 for index in range(len(text)) if text[index : index + 2] == b"\n\n"]
    blocks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert len(blocks) > 5
    whole = documents(text, tokenizer)
    assert [doc for block in blocks for doc in documents(block, tokenizer)] == whole


def test_arrays_and_bytes_give_the_same_from_any_thread(golden):
    tokenizer = WordPieceTokenizer(Vocabulary.read(golden / "vocab" / "cased_vocab.txt"), False)
    data = (golden / "inputs" / "hostile.txt").read_bytes()
    writable = np.array(bytearray(data), np.uint8)
    read_only = np.frombuffer(data, np.uint8)
    expected = tokenizer.encode(data)
    with ThreadPoolExecutor(4) as threads:
        for encoded in threads.map(tokenizer.encode, [writable, read_only, data] * 4):
            for field, value in zip(encoded, expected, strict=True):
                np.testing.assert_array_equal(field, value)


def test_counts_and_ends():
    encoded = make_tokenizer().encode(b"the cats dog\nthe\n\n\ncat")
    assert encoded.tokens.dtype == np.uint16
    assert list(accumulate((4, 1, 1))) == encoded.sentence_ends.tolist()
    assert encoded.document_ends.tolist() == [2, 3]
    assert (encoded.num_words, encoded.num_unknown) == (5, 1)
