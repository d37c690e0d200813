"""What Google's BERT tokenizer does with each Unicode character, frozen into a table file.

The Unicode version of the tables, not that of the running Python, decides how a text is tokenized;
version and hash go into the metadata of every data set. `scripts/make_unicode_tables.py` makes the
file anew.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).with_name("unicode_tables.npz")
NUM_CODE_POINTS = 0x110000

# Bits of a character's flags.
DROPPED = 1  # vanishes: control and format characters, U+0000, U+FFFD, carriage return
SPACE = 2  # ends a word
ISOLATED = 4  # a word of its own: punctuation and CJK ideographs
REPLACED = 8  # has another form (perhaps none) when lower-cased and stripped of accents
BLANK = 16  # white space in the sense of str.strip(): does not make a line non-blank
CASED = 32  # decides whether a neighbouring capital sigma is a final one
IGNORABLE = 64  # is passed over when that is decided


class UnicodeTables(NamedTuple):
    """Flags and replacements of all code points.

    Attributes:
        version: Unicode version, for example "14.0.0".
        sha256: hash of version and tables.
        cased_flags: uint8[NUM_CODE_POINTS], flags when case and accents are kept.
        uncased_flags: the same when text is lower-cased and accents are stripped.
        replacement_starts: int32[NUM_CODE_POINTS + 1]; the lower-cased, accent-stripped form of
            code point c is `replacement_bytes[replacement_starts[c]:replacement_starts[c + 1]]`.
        replacement_bytes: uint8, UTF-8.
    """

    version: str
    sha256: str
    cased_flags: NDArray[np.uint8]
    uncased_flags: NDArray[np.uint8]
    replacement_starts: NDArray[np.int32]
    replacement_bytes: NDArray[np.uint8]


@cache
def load() -> UnicodeTables:
    """Read the frozen tables (about 20 ms the first time)."""
    with np.load(PATH, allow_pickle=False) as file:
        version = str(file["version"])
        arrays = {name: file[name] for name in sorted(file.files) if name != "version"}
    starts = np.zeros(NUM_CODE_POINTS + 1, np.int32)
    np.cumsum(arrays["replacement_lengths"], out=starts[1:])
    digest = hashlib.sha256(version.encode())
    for array in arrays.values():
        digest.update(array)
    return UnicodeTables(
        version,
        digest.hexdigest(),
        arrays["cased_flags"],
        arrays["uncased_flags"],
        starts,
        arrays["replacement_bytes"],
    )
