"""Google's BERT tokenization in plain Python, written from its rules: the oracle of the tests.

Slow and short on purpose. It follows the Unicode tables of the Python that runs it.
"""

import unicodedata

CJK_BLOCKS = (
    range(0x4E00, 0xA000),
    range(0x3400, 0x4DC0),
    range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2B740),
    range(0x2B740, 0x2B820),
    range(0x2B820, 0x2CEB0),
    range(0xF900, 0xFB00),
    range(0x2F800, 0x2FA20),
)


def is_punctuation(character):
    code = ord(character)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(character)[0] == "P"


def clean(line):
    kept = []
    for character in line:
        if character in "\t\n\r" or unicodedata.category(character) == "Zs":
            kept.append(" ")
        elif character not in "\0\ufffd" and unicodedata.category(character) not in ("Cc", "Cf"):
            kept.append(character)
    return "".join(kept)


def separate_cjk(line):
    return "".join(f" {c} " if any(ord(c) in block for block in CJK_BLOCKS) else c for c in line)


def lower_and_strip_accents(word):
    decomposed = unicodedata.normalize("NFD", word.lower())
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def basic_tokens(line, do_lower_case):
    words = []
    for word in separate_cjk(clean(line)).split():
        mapped = lower_and_strip_accents(word) if do_lower_case else word
        words.append("".join(f" {c} " if is_punctuation(c) else c for c in mapped))
    return " ".join(words).split()


def word_pieces(word, vocabulary):
    """Greedy longest match; `vocabulary` is anything with `in`."""
    if len(word) > 200:
        return ["[UNK]"]
    pieces = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = (e for e in range(len(word), start, -1) if prefix + word[start:e] in vocabulary)
        end = next(ends, None)
        if end is None:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


def tokenize(line, vocabulary, do_lower_case):
    words = basic_tokens(line, do_lower_case)
    return [piece for word in words for piece in word_pieces(word, vocabulary)]


def read_documents(text, tokenize_line):
    """Documents of a text as lists of token lists; blank lines end documents.

    Args:
        text: UTF-8 bytes; what is not UTF-8 is ignored.
        tokenize_line: function from a stripped line to its tokens.
    """
    documents = [[]]
    for line in text.decode("utf-8", "ignore").replace("\r", "").split("\n"):
        stripped = line.strip()
        if not stripped:
            documents.append([])
        tokens = tokenize_line(stripped)
        if tokens:
            documents[-1].append(tokens)
    return [document for document in documents if document]
