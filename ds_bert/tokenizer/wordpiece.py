"""WordPiece: UTF-8 text straight to token ids, by the rules of Google's BERT tokenizer.

Text is split into lines of words first (`basic_tokenizer`); here each word is cut into the longest
pieces that the vocabulary holds, from left to right.

Source: google-research/bert, tokenization.py (`FullTokenizer`, `WordpieceTokenizer`).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
from ds_bert.tokenizer import piece_trie
from ds_bert.tokenizer.basic_tokenizer import NEWLINE_BYTE, SPACE_BYTE, BasicTokenizer
from ds_bert.tokenizer.piece_trie import CHILDREN, PARENT, TOKEN, WORD_INSIDE, WORD_START
from ds_bert.tokenizer.vocabulary import Vocabulary

MAX_WORD_CHARACTERS = 200  # a longer word is unknown


class EncodedText(NamedTuple):
    """Token ids of a text with the borders of its sentences and documents.

    Attributes:
        tokens: token ids, in the vocabulary's `token_dtype`.
        sentence_ends: int64, for each sentence the offset in `tokens` after its last token. A line
            without tokens is no sentence.
        document_ends: int64, for each document the number of sentences up to its end. Blank lines
            end documents, and the end of the text ends the last one; none is empty.
        num_words: number of words.
        num_unknown: number of words that became [UNK].
        first_invalid_byte: offset of the first invalid UTF-8 sequence in the text, -1 if none.
        num_invalid_bytes: bytes left out because they are no UTF-8.
    """

    tokens: NDArray[np.unsignedinteger]
    sentence_ends: NDArray[np.int64]
    document_ends: NDArray[np.int64]
    num_words: int
    num_unknown: int
    first_invalid_byte: int
    num_invalid_bytes: int


class WordPieceTokenizer:
    """Tokenizer of one vocabulary; safe to use from several threads at once (the GIL is released).

    Unlike Hugging Face's tokenizers it never makes special ids of text such as "[MASK]".
    """

    def __init__(self, vocabulary: Vocabulary, do_lower_case: bool) -> None:
        """Prepare the tables.

        Args:
            vocabulary: tokens and ids.
            do_lower_case: lower-case the text and strip its accents, for an uncased vocabulary.
        """
        self.vocabulary = vocabulary
        self._basic_tokenizer = BasicTokenizer(do_lower_case)
        self._trie = piece_trie.build(vocabulary)

    def encode(self, text: bytes | NDArray[np.uint8]) -> EncodedText:
        """Tokenize a text of any number of lines.

        Args:
            text: UTF-8, as bytes or uint8[length]. Invalid sequences are left out, as Google's
                reader does; a caller that does not want that looks at `first_invalid_byte`.
        """
        lines = self._basic_tokenizer.split(text)
        tokens = np.empty(len(lines.text), self.vocabulary.token_dtype)
        sentence_ends = np.empty(lines.num_lines, np.int64)
        document_ends = np.empty(lines.num_lines, np.int64)
        num_tokens, num_sentences, num_documents, num_words, num_unknown = _encode(
            lines.text, self._trie, self.vocabulary.unk_id, tokens, sentence_ends, document_ends
        )
        return EncodedText(
            tokens[:num_tokens],
            sentence_ends[:num_sentences],
            document_ends[:num_documents],
            num_words,
            num_unknown,
            lines.first_invalid_byte,
            lines.num_invalid_bytes,
        )

    def tokenize(self, text: str) -> list[str]:
        """Tokens of a text as strings, for tests and inspection."""
        tokens = self.vocabulary.tokens
        return [tokens[index] for index in self.encode(text.encode("utf-8")).tokens]


@compiled
def _encode(text, trie, unk_id, tokens, sentence_ends, document_ends):  # type: ignore[no-untyped-def]
    """Encode lines of words; `text` ends with a newline, so every word is known to end.

    One loop over words and line ends: handing the arrays to a function for each word costs a
    third of the speed.

    Returns:
        Numbers of tokens, sentences, documents, words and unknown words.
    """
    num_tokens = num_sentences = num_documents = num_words = num_unknown = 0
    sentence_start = document_start = position = 0
    while position < len(text):
        if text[position] == SPACE_BYTE:
            position += 1
        elif text[position] == NEWLINE_BYTE:
            position += 1
            if num_tokens > sentence_start:
                sentence_ends[num_sentences] = sentence_start = num_tokens
                num_sentences += 1
            elif num_sentences > document_start:  # an empty line
                document_ends[num_documents] = document_start = num_sentences
                num_documents += 1
        else:
            num_words += 1
            word_start = position
            first_token = num_tokens
            root = WORD_START
            while text[position] > SPACE_BYTE:
                token, position = _longest_piece(text, position, trie, root)
                if token < 0:
                    num_tokens = first_token
                    while text[position] > SPACE_BYTE:
                        position += 1
                    break
                tokens[num_tokens] = token
                num_tokens += 1
                root = WORD_INSIDE
            if _is_too_long(text, word_start, position):
                num_tokens = first_token
            if num_tokens == first_token:
                tokens[num_tokens] = unk_id
                num_tokens += 1
                num_unknown += 1
    if num_sentences > document_start:
        document_ends[num_documents] = num_sentences
        num_documents += 1
    return num_tokens, num_sentences, num_documents, num_words, num_unknown


@compiled
def _longest_piece(text, start, trie, root):  # type: ignore[no-untyped-def]
    """Id and end of the longest piece of the trie below `root` at `start`; (-1, start) if none."""
    token = -1
    end = position = start
    node = np.int64(root)
    while True:
        child = trie[node, CHILDREN] + np.int64(text[position])
        if trie[child, PARENT] != node:
            return token, end
        node = child
        position += 1
        if trie[node, TOKEN] >= 0:
            token = int(trie[node, TOKEN])
            end = position


@compiled
def _is_too_long(text, start, end):  # type: ignore[no-untyped-def]
    if end - start <= MAX_WORD_CHARACTERS:  # bytes are no fewer than characters
        return False
    num_characters = 0
    for byte in text[start:end]:
        num_characters += byte & 0xC0 != 0x80
    return num_characters > MAX_WORD_CHARACTERS
