"""First half of BERT's tokenization: text to lines of words separated by spaces.

Source: google-research/bert, tokenization.py (`BasicTokenizer`) and create_pretraining_data.py
(reading the input). Per character the result is a table look-up; only the final sigma looks at its
neighbours. One difference is left: Unicode's canonical ordering swaps neighbours among 25 marks of
category Mc (a virama after a Hangul tone mark, say, or musical stems and dots); here they stay in
the order written. No released BERT vocabulary holds one, so words with them are [UNK] either way.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
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

NEWLINE_BYTE = ord("\n")
SPACE_BYTE = ord(" ")  # in the output, no byte of a word is as small
CAPITAL_SIGMA = ord("Σ")
FINAL_SIGMA_LAST_BYTE = "ς".encode()[-1]  # the only byte in which ς differs from σ

# The longest output per input byte: three-byte Hangul syllables become nine bytes of letters, and a
# one-byte punctuation mark gets a space on both sides.
MAX_EXPANSION = 3


class WordLines(NamedTuple):
    """Text as lines of words.

    Attributes:
        text: uint8, UTF-8. Words are separated by one or more spaces. Every line ends with a
            newline and is one sentence; an empty line ends a document.
        num_lines: number of lines.
        first_invalid_byte: offset of the first invalid UTF-8 sequence in the input, -1 if none.
        num_invalid_bytes: bytes left out because they are no UTF-8.
    """

    text: NDArray[np.uint8]
    num_lines: int
    first_invalid_byte: int
    num_invalid_bytes: int


class BasicTokenizer:
    """Splits UTF-8 text into lines and words by Google's rules; safe to use from several threads.

    * Lines end at line feeds only; carriage returns are deleted first.
    * A line that is blank for Unicode ends a document. A line with characters of which none is
      left over (zero width, control) is neither a sentence nor the end of a document.
    * Invalid UTF-8 (also overlong forms, surrogates, beyond U+10FFFF) is left out and reported.
    """

    def __init__(self, do_lower_case: bool) -> None:
        """Load the tables.

        Args:
            do_lower_case: lower-case the text and strip its accents.
        """
        tables = unicode_tables.load()
        self._flags = tables.uncased_flags if do_lower_case else tables.cased_flags
        self._starts = tables.replacement_starts
        self._replacements = tables.replacement_bytes
        self._plain_bytes = self._make_plain_bytes()

    def split(self, text: bytes | NDArray[np.uint8]) -> WordLines:
        """Split a text.

        Args:
            text: UTF-8. Its end is also the end of its last line.
        """
        source = np.frombuffer(text, np.uint8)
        source.flags.writeable = False  # one compiled version serves writable and read-only input
        words = np.empty(MAX_EXPANSION * len(source) + 1, np.uint8)
        length, num_lines, first_invalid, num_invalid = _split(
            source, self._plain_bytes, self._flags, self._starts, self._replacements, words
        )
        return WordLines(words[:length], num_lines, first_invalid, num_invalid)

    def _make_plain_bytes(self) -> NDArray[np.uint8]:
        """For each byte that is simply copied (space, ASCII letter or digit) its copy, else 0."""
        plain = np.zeros(256, np.uint8)
        for byte in range(128):
            if not self._flags[byte] & (DROPPED | SPACE | ISOLATED):
                replaced = self._flags[byte] & REPLACED
                plain[byte] = self._replacements[self._starts[byte]] if replaced else byte
        plain[SPACE_BYTE] = SPACE_BYTE
        return plain


@compiled
def _split(text, plain_bytes, flags, starts, replacements, words):  # type: ignore[no-untyped-def]
    """Write the lines of words of `text` into `words`.

    One long loop, because every value it keeps per character would otherwise travel through a
    call. Most of the text takes the first branch, a copy by table.

    Returns:
        Length and number of lines written, first invalid byte or -1, number of invalid bytes.
    """
    position = length = num_lines = num_invalid = 0
    first_invalid = -1
    while position < len(text):  # one line each time round
        line_start = length
        has_words = 0
        is_blank = True
        while position < len(text):
            byte = text[position]
            plain = plain_bytes[byte]
            if plain != 0:
                words[length] = plain
                has_words |= plain ^ SPACE_BYTE
                length += 1
                position += 1
                continue
            if byte == NEWLINE_BYTE:
                break
            start = position
            code_point, size = _decode(text, position)
            position += size
            if code_point < 0:
                if first_invalid < 0:
                    first_invalid = start
                num_invalid += size
                continue
            flag = flags[code_point]
            if not flag & BLANK:
                is_blank = False
            if flag & DROPPED:
                continue
            if flag & (SPACE | ISOLATED):
                words[length] = SPACE_BYTE
                length += 1
            if flag & SPACE:
                continue
            character_start = length
            if flag & REPLACED:
                for index in range(starts[code_point], starts[code_point + 1]):
                    words[length] = replacements[index]
                    length += 1
                if code_point == CAPITAL_SIGMA and _is_final(text, start, position, flags):
                    words[length - 1] = FINAL_SIGMA_LAST_BYTE
            else:
                for index in range(start, position):
                    words[length] = text[index]
                    length += 1
            has_words |= length - character_start
            if flag & ISOLATED:
                words[length] = SPACE_BYTE
                length += 1
        position += 1
        if not has_words:
            length = line_start
        if has_words or is_blank:
            words[length] = NEWLINE_BYTE
            length += 1
            num_lines += 1
    return length, num_lines, first_invalid, num_invalid


@compiled
def _decode(text, position):  # type: ignore[no-untyped-def]
    """Code point and size of the UTF-8 sequence at `position`; (-1, 1) if it is invalid."""
    first = np.int64(text[position])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        size, smallest, code_point = 2, 0x80, first & 0x1F
    elif first < 0xF0:
        size, smallest, code_point = 3, 0x800, first & 0x0F
    else:
        size, smallest, code_point = 4, 0x10000, first & 0x0F
    if first < 0xC0 or position + size > len(text):
        return -1, 1
    for index in range(position + 1, position + size):
        byte = np.int64(text[index])
        if byte & 0xC0 != 0x80:
            return -1, 1
        code_point = code_point << 6 | byte & 0x3F
    is_surrogate = 0xD800 <= code_point <= 0xDFFF
    if code_point < smallest or code_point >= NUM_CODE_POINTS or is_surrogate:
        return -1, 1
    return code_point, size


@compiled
def _is_final(text, start, end, flags):  # type: ignore[no-untyped-def]
    """Whether the capital sigma at [start, end) ends a word, in the sense of str.lower().

    It does if, within the stretch between white space and with ignorable characters passed over,
    a cased character stands before it and none after it.
    """
    before = False
    while start > 0:
        start -= 1
        while start > 0 and text[start] & 0xC0 == 0x80:
            start -= 1
        code_point, _ = _decode(text, start)
        if code_point < 0 or flags[code_point] & (DROPPED | IGNORABLE):
            continue
        before = flags[code_point] & CASED != 0
        break
    if not before:
        return False
    while end < len(text):
        code_point, size = _decode(text, end)
        end += size
        if code_point < 0 or flags[code_point] & (DROPPED | IGNORABLE):
            continue
        return flags[code_point] & CASED == 0
    return True
