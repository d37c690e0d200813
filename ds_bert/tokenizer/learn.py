"""Learning a WordPiece vocabulary from text: byte-pair merges over the words of our tokenizer.

Every count is exact and every tie is broken by the text of the pieces, so the same text gives the
same file. (Hugging Face's trainer numbers its tokens differently on every run.)

Source: Sennrich et al. 2016, "Neural machine translation of rare words with subword units".
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from tqdm import tqdm

from ds_bert.errors import ConfigurationError, DataError
from ds_bert.text.blocks import invalid_utf8, read_lines
from ds_bert.text.source import Input
from ds_bert.tokenizer.basic_tokenizer import BasicTokenizer
from ds_bert.tokenizer.vocabulary import CONTINUATION, SPECIAL_TOKENS, Vocabulary
from ds_bert.tokenizer.wordpiece import MAX_WORD_CHARACTERS

MIN_FREQUENCY = 2
# Alphabet: as many characters as Google's English vocabulary has, and more where that is too few.
USUAL_ALPHABET = 1000
COVERAGE = 0.9999
Pair = tuple[str, str]


class LearnedVocabulary(NamedTuple):
    """A vocabulary and how it fits the words it was learned from.

    Attributes:
        vocabulary: special tokens, single characters, merged pieces.
        num_characters: different characters kept.
        num_dropped_characters: different characters left out of the alphabet.
        num_words: words of the text.
        num_unknown: those among them that hold a character left out.
    """

    vocabulary: Vocabulary
    num_characters: int
    num_dropped_characters: int
    num_words: int
    num_unknown: int

    def describe(self, word_counts: Mapping[str, int]) -> str:
        """How the vocabulary fits what it was learned from, for a person."""
        return (
            f"{self.num_words:,} words, {len(word_counts):,} different; "
            f"{self.num_characters:,} characters kept, {self.num_dropped_characters:,} left out "
            f"({self.num_unknown / self.num_words:.3%} of the words hold one of those)"
        )


def count_words(
    inputs: Sequence[Input], do_lower_case: bool, ignore_invalid: bool = False
) -> Counter[str]:
    """How often each word occurs in text files.

    Args:
        inputs: UTF-8 text.
        do_lower_case: lower-case the text and strip its accents first.
        ignore_invalid: leave bytes out that are not UTF-8, instead of refusing the file.

    Raises:
        DataError: a file cannot be read, is not UTF-8, or there is not one word in all of them.
    """
    tokenizer = BasicTokenizer(do_lower_case)
    counts: Counter[bytes] = Counter()
    num_bytes = sum(source.num_bytes for source in inputs)
    # disable=None: a bar on a terminal, nothing in a log file.
    bar = tqdm(total=num_bytes, unit="B", unit_scale=True, desc="counting words", disable=None)
    with bar:
        for source, block in _blocks(inputs):
            lines = tokenizer.split(block)
            if lines.num_invalid_bytes and not ignore_invalid:
                raise invalid_utf8([source])
            counts.update(lines.text.tobytes().split())
            bar.update(len(block))
    if not counts:
        names = ", ".join(map(str, inputs)) or "the input (no file)"
        raise DataError(f"no words in {names}; expected text, one sentence per line")
    return Counter({word.decode(): count for word, count in counts.items()})


def _blocks(inputs: Sequence[Input]) -> Iterator[tuple[Input, bytes]]:
    """Blocks of whole lines, each with the input it is from."""
    for source in inputs:
        for block in read_lines(source):
            yield source, block


def learn_vocabulary(
    word_counts: Mapping[str, int],
    vocab_size: int,
    min_frequency: int = MIN_FREQUENCY,
    max_alphabet: int | None = None,
) -> LearnedVocabulary:
    """Learn a vocabulary from counted words.

    First the special tokens, then the characters of the alphabet and their "##" forms, each sorted
    by frequency, then merged pieces in the order found. Every word made of the alphabet's
    characters can be encoded.

    Args:
        word_counts: number of occurrences of each word.
        vocab_size: number of tokens; fewer are learned when no more pairs are frequent enough.
        min_frequency: how often two pieces must meet to be merged.
        max_alphabet: number of different characters kept, the most frequent ones. None: 1000, or
            as many as make up 99.99 % of the text (Chinese needs several thousand).

    Raises:
        ConfigurationError: `vocab_size` does not hold the special tokens and the alphabet.
    """
    character_counts = _count_characters(word_counts)
    alphabet = _choose_alphabet(character_counts, max_alphabet)
    tokens = [*SPECIAL_TOKENS, *alphabet, *_continuations(alphabet, word_counts)]
    if len(tokens) > vocab_size:
        raise ConfigurationError(
            f"vocab_size {vocab_size:,} is too small: {len(SPECIAL_TOKENS)} special tokens and "
            f"{len(alphabet):,} characters with their '##' forms need {len(tokens):,}; raise it, "
            "or keep fewer characters with --max_alphabet"
        )
    kept = frozenset(alphabet)
    known = {word: count for word, count in word_counts.items() if kept.issuperset(word)}
    num_words, num_known = sum(word_counts.values()), sum(known.values())
    return LearnedVocabulary(
        Vocabulary(_add_merges(tokens, known, vocab_size, min_frequency)),
        len(alphabet),
        len(character_counts) - len(alphabet),
        num_words,
        num_words - num_known,
    )


def _count_characters(word_counts: Mapping[str, int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for word, count in word_counts.items():
        for character in word:
            counts[character] += count
    return counts


def _choose_alphabet(counts: Mapping[str, int], max_alphabet: int | None) -> list[str]:
    """The most frequent characters, the most frequent first."""
    characters = sorted(counts, key=lambda character: (-counts[character], character))
    if max_alphabet is None:
        covered = accumulate(counts[character] for character in characters)
        wanted = COVERAGE * sum(counts.values())
        needed = 1 + sum(share < wanted for share in covered)
        max_alphabet = max(USUAL_ALPHABET, needed)
    return characters[:max_alphabet]


def _continuations(alphabet: Sequence[str], word_counts: Mapping[str, int]) -> list[str]:
    """The "##" forms of the alphabet; punctuation and ideographs, always alone, need none."""
    joined = {character for word in word_counts if len(word) > 1 for character in word}
    return [CONTINUATION + character for character in alphabet if character in joined]


def _add_merges(
    tokens: list[str], word_counts: Mapping[str, int], vocab_size: int, min_frequency: int
) -> list[str]:
    """`tokens` and the pieces that merging the most frequent pair over and over makes."""
    # The tokenizer never cuts longer words into pieces.
    pairs = _Pairs({w: n for w, n in word_counts.items() if len(w) <= MAX_WORD_CHARACTERS})
    found = dict.fromkeys(tokens)  # an ordered set: two ways of merging can make the same piece
    with tqdm(total=vocab_size, initial=len(found), desc="merging pairs", disable=None) as bar:
        while len(found) < vocab_size:
            pair = pairs.pop_most_frequent(min_frequency)
            if pair is None:
                break
            found[pairs.merge(pair)] = None
            bar.update(len(found) - bar.n)
    return list(found)


class _Pairs:
    """Neighbouring pieces in all words: how often each pair occurs, and in which words.

    The heap holds (minus frequency, pair). An entry is put in whenever a frequency rises; when one
    has fallen since, the entry is put back with what is true now.
    """

    def __init__(self, word_counts: Mapping[str, int]) -> None:
        self._counts = list(word_counts.values())
        self._words = [[word[0], *(CONTINUATION + c for c in word[1:])] for word in word_counts]
        self._frequency: Counter[Pair] = Counter()
        self._places: defaultdict[Pair, list[int]] = defaultdict(list)  # also former ones
        for index, word in enumerate(self._words):
            for pair in pairwise(word):
                self._frequency[pair] += self._counts[index]
                self._places[pair].append(index)
        self._heap = [(-frequency, pair) for pair, frequency in self._frequency.items()]
        heapq.heapify(self._heap)

    def pop_most_frequent(self, min_frequency: int) -> Pair | None:
        """The most frequent pair, the first in code point order among equals."""
        while self._heap:
            noted, pair = heapq.heappop(self._heap)
            frequency = self._frequency[pair]
            if frequency == -noted:
                return pair if frequency >= min_frequency else None
            if min_frequency <= frequency < -noted:
                heapq.heappush(self._heap, (-frequency, pair))
        return None

    def merge(self, pair: Pair) -> str:
        """Replace the pair by one piece in all words; returns the piece."""
        piece = pair[0] + pair[1].removeprefix(CONTINUATION)
        raised: set[Pair] = set()
        for index in self._places.pop(pair):
            raised |= self._merge_in_word(index, pair, piece)
        for other in raised:
            heapq.heappush(self._heap, (-self._frequency[other], other))
        return piece

    def _merge_in_word(self, index: int, pair: Pair, piece: str) -> set[Pair]:
        """Merge in one word; returns the pairs that this made more frequent."""
        old, new = self._words[index], _replace(self._words[index], pair, piece)
        if len(new) == len(old):
            return set()
        self._words[index] = new
        for gone in pairwise(old):
            self._frequency[gone] -= self._counts[index]
        raised = set()
        for there in pairwise(new):
            self._frequency[there] += self._counts[index]
            if piece in there:
                self._places[there].append(index)
                raised.add(there)
        return raised


def _replace(word: list[str], pair: Pair, piece: str) -> list[str]:
    """The pieces of a word with each `pair`, from left to right, made one piece."""
    new: list[str] = []
    position = 0
    while position < len(word):
        is_pair = word[position] == pair[0] and word[position + 1 : position + 2] == [pair[1]]
        new.append(piece if is_pair else word[position])
        position += 2 if is_pair else 1
    return new
