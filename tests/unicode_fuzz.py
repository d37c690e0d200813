"""Random Unicode text, and a vocabulary under which no difference hides behind [UNK]."""

import random
import sys
import unicodedata

import reference_tokenizer as reference

from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

# Marks whose order canonical ordering may change although accents are stripped; basic_tokenizer
# leaves them as written.
ORDERED_MARKS = frozenset(
    chr(code)
    for code in range(sys.maxunicode + 1)
    if unicodedata.combining(chr(code)) and unicodedata.category(chr(code)) != "Mn"
)
TRICKY = (
    "\t\v\f\r\0\x1c\x1f\x7f\x85\xa0\xad\u1680\u180e\u200b\u2028\u2029\u3000\ufeff\ufffd\ue000"
    "ΣσςΆάİıßẞſΐᾳʰͅ'’.:·_#[]-$+^`~\u037e\u1fef\u0300\u0327\u0345\u20dd가각힣ᄀ中𠀀\u9fff\ufa0e豈"
)
FREQUENT = "aB "


def random_pool(generator: random.Random, size: int) -> list[str]:
    """Characters to build lines of: all tricky ones, the rest from everywhere in Unicode."""
    pool = list(TRICKY)
    while len(pool) < size:
        # Half from the planes' beginnings, where the assigned letters are.
        code = generator.randrange(generator.choice((0x530, 0x3100, 0x20000, 0x110000)))
        if not 0xD800 <= code <= 0xDFFF and chr(code) not in ORDERED_MARKS | {"\n"}:
            pool.append(chr(code))
    return pool


def random_lines(generator: random.Random, pool: list[str], count: int) -> bytes:
    """Lines without invalid bytes; some blank, some of words of about 200 characters."""
    lines = []
    for _ in range(count):
        palette = generator.choices(pool, k=generator.randrange(1, 12)) + list(FREQUENT)
        length = generator.choice((0, 1, 3, 10, 40, 40, 40, 205))
        lines.append("".join(generator.choices(palette, k=length)))
    return "\n".join(lines).encode()


def alphabet_vocabulary(pool: list[str], do_lower_case: bool) -> Vocabulary:
    """Every character that the pool can turn into, as a word start and as a continuation."""
    characters = set("σς")
    for character in [*FREQUENT, *pool]:
        characters.update(*reference.basic_tokens(character * 2, do_lower_case))
    return Vocabulary(
        [*SPECIAL_TOKENS, *sorted(characters), *(f"##{c}" for c in sorted(characters))]
    )
