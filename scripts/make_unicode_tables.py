"""Make ds_bert/tokenizer/unicode_tables.npz from Python's own Unicode data.

    python scripts/make_unicode_tables.py

A Python with another Unicode version (`unicodedata.unidata_version`) makes other tables, and with
them other tokens for the characters that changed.
"""

import sys

if not __package__:
    sys.path.pop(0)  # this folder's file names must not shadow other packages

import argparse
import unicodedata
from pathlib import Path

try:
    from ds_bert import errors
except ModuleNotFoundError:
    sys.exit("ds_bert is not installed: run `pip install -e .` in the repository's folder")
import numpy as np

from ds_bert.tokenizer import unicode_tables as tables

CJK_RANGES = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def is_punctuation(character: str) -> bool:
    """Every ASCII character that is no letter, digit, space or control, and Unicode's P classes."""
    ascii_symbol = "!" <= character <= "~" and not character.isalnum()
    return ascii_symbol or unicodedata.category(character).startswith("P")


def is_cjk(character: str) -> bool:
    """CJK ideographs, with the ranges of Google's tokenizer."""
    return any(first <= ord(character) <= last for first, last in CJK_RANGES)


def lower_and_strip(character: str) -> str:
    """Lower case without accents; context-free but for the final sigma."""
    decomposed = unicodedata.normalize("NFD", character.lower())
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def base_flags(character: str) -> int:
    """Flags of the cleaning step: dropped, space, blank."""
    blank = tables.BLANK if character.isspace() else 0
    if character == "\r":  # the reader deletes it before the tokenizer sees the line
        return tables.DROPPED | blank
    if character in "\t\n":
        return tables.SPACE | blank
    if character in "\0\ufffd" or unicodedata.category(character) in ("Cc", "Cf"):
        return tables.DROPPED | blank
    return tables.SPACE | blank if blank else 0


def sigma_flags(character: str) -> int:
    """How Python's str.lower() sees the character when it looks for the end of a Greek word."""
    if ("aΣ" + character).lower()[1] == "σ":
        return tables.CASED
    if ("aΣ" + character + "a").lower()[1] == "σ":
        return tables.IGNORABLE
    return 0


def describe(character: str) -> tuple[int, int, str]:
    """Cased flags, uncased flags and replacement of one character."""
    flags = base_flags(character)
    if flags & (tables.DROPPED | tables.SPACE):
        return flags, flags, ""
    cjk = is_cjk(character)
    cased = flags | (tables.ISOLATED if cjk or is_punctuation(character) else 0)
    replacement = lower_and_strip(character)
    uncased = flags | sigma_flags(character)
    if cjk or any(map(is_punctuation, replacement)):
        assert len(replacement) == 1, f"U+{ord(character):04X} is more than one word"
        uncased |= tables.ISOLATED
    if replacement == character:
        return cased, uncased, ""
    return cased, uncased | tables.REPLACED, replacement


def build() -> dict[str, np.ndarray]:
    """Arrays of the table file."""
    cased_flags = np.zeros(tables.NUM_CODE_POINTS, np.uint8)
    uncased_flags = np.zeros_like(cased_flags)
    lengths = np.zeros_like(cased_flags)
    replacements = []
    for code_point in range(tables.NUM_CODE_POINTS):
        if 0xD800 <= code_point <= 0xDFFF:  # surrogates do not occur in UTF-8
            continue
        cased_flags[code_point], uncased_flags[code_point], text = describe(chr(code_point))
        lengths[code_point] = len(text.encode())
        replacements.append(text)
    return {
        "version": np.array(unicodedata.unidata_version),
        "cased_flags": cased_flags,
        "uncased_flags": uncased_flags,
        "replacement_lengths": lengths,
        "replacement_bytes": np.frombuffer("".join(replacements).encode(), np.uint8),
    }


def main(argv: list[str] | None = None) -> None:
    """Write the table file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_file", type=Path, default=tables.PATH)
    path = parser.parse_args(argv).output_file
    temporary = path.with_name(path.stem + ".tmp.npz")
    np.savez_compressed(temporary, **build())
    temporary.replace(path)
    print(f"{path}: Unicode {unicodedata.unidata_version}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    errors.exit_with(main)
