"""Which row each sample of a run is: all rows in turn, or corpora mixed by weights.

Sample p of a run is found from the number p alone, in constant time, so no order is ever stored and
a run can begin anywhere. With weights, samples come in blocks. A block has a whole number of slots
for each corpus and an order of its own. A corpus has counted its samples up to any slot by then:

    slot j of block b, the i-th of corpus c, which has s slots  ->  sample k = b s + i of corpus c
    sample k of corpus c, which has N rows  ->  row permuted(k mod N) of its epoch k div N

So shares are exact in every block, and every row of a corpus is seen before one is seen again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.format import Corpus
from ds_bert.dataset.store import InstanceTable
from ds_bert.errors import ConfigurationError, require
from ds_bert.rng.streams import named_seed, permuted, permuted_in_blocks

BY_SIZE = "size"  # instead of weights: each row once in an epoch
_MAX_SLOTS = 2**31  # of a block; numbers of samples stay far below 2**63


class Part(NamedTuple):
    """Rows that have an order of their own.

    Attributes:
        corpus: its name and its rows.
        slots: of a block.
        seed: of its orders.
    """

    corpus: Corpus
    slots: int
    seed: int


@dataclass(frozen=True)
class SampleOrder:
    """Rows and epochs of the samples 0, 1, 2, ... of a run.

    Attributes:
        parts: the corpora that are mixed; one: no mixing.
        seed: of the orders inside blocks.
    """

    parts: tuple[Part, ...]
    seed: int

    @classmethod
    def by_size(cls, num_rows: int, seed: int) -> Self:
        """Each row once in an epoch."""
        return cls((Part(Corpus("", None, 0, num_rows), 1, seed),), seed)

    @classmethod
    def of(cls, table: InstanceTable, weights: str | None, seed: int) -> Self:
        """The order of a run on a table.

        Args:
            table: its corpora have weights or not.
            weights: NAME=WEIGHT,... instead of the table's, or "size"; None: the table's.
            seed: any integer.

        Raises:
            ConfigurationError: a name that is no corpus of the table, or a weight that is none.
        """
        found = resolve_weights(table.corpora, weights, str(table.store.folder))
        if found is None:
            return cls.by_size(len(table), seed)
        slots = _slots(found)
        parts = (
            Part(corpus, number, named_seed(seed, corpus.name))
            for corpus, number in zip(table.corpora, slots, strict=True)
            if number
        )
        return cls(tuple(parts), seed)

    @property
    def is_mixed(self) -> bool:
        """Whether corpora have shares of their own."""
        return bool(self.parts[0].corpus.name)

    @property
    def block_size(self) -> int:
        """Samples of a block."""
        return sum(part.slots for part in self.parts)

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the table, and how often each one's corpus was gone through before.

        Args:
            samples: int64 [N], numbers of samples.

        Returns:
            rows and epochs, int64 [N].
        """
        slots = permuted_in_blocks(samples, self.block_size, self.seed)
        rows, epochs = np.empty((2, len(samples)), np.int64)
        first = 0
        for corpus, num_slots, seed in self.parts:
            mine = (first <= slots) & (slots < first + num_slots)
            own = samples[mine] // self.block_size * num_slots + slots[mine] - first
            rows[mine], epochs[mine] = _rows(corpus, own, seed)
            first += num_slots
        return rows, epochs

    def __str__(self) -> str:
        if not self.is_mixed:
            return BY_SIZE
        return ", ".join(f"{part.corpus.name} {part.slots}" for part in self.parts)

    def describe(self, num_samples: int, corpora: Sequence[Corpus]) -> Iterator[str]:
        """What a run of so many samples sees of each corpus, for a person."""
        if self.is_mixed:
            shares = [(part.corpus, part.slots / self.block_size) for part in self.parts]
        else:  # as large as they are
            shares = [(corpus, corpus.size / self.parts[0].corpus.size) for corpus in corpora]
        for corpus, share in shares:
            epochs = num_samples * share / corpus.size
            yield f"{corpus.name} {share:.1%} of samples, {epochs:.2f} epochs in this run"


def _rows(
    corpus: Corpus, samples: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and epochs of a corpus' own samples."""
    epochs, positions = np.divmod(samples, corpus.size)
    rows = np.empty_like(samples)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        rows[inside] = permuted(positions[inside], corpus.size, seed, epoch)
    return corpus.first + rows, epochs


def resolve_weights(
    corpora: Sequence[Corpus], given: str | None, folder: str
) -> list[Fraction] | None:
    """A weight for each corpus; None: each row once in an epoch.

    A corpus without a weight beside others that have one counts 1.

    Args:
        corpora: of the data set, with weights or without.
        given: see `SampleOrder.of`.
        folder: of the data set, for messages.
    """
    if given == BY_SIZE:
        return None
    weights: Mapping[str, str] = {
        corpus.name: str(corpus.weight) for corpus in corpora if corpus.weight is not None
    }
    if given is not None:
        names = [corpus.name for corpus in corpora]
        weights = {**weights, **_parsed(given, names, folder)}
    if not weights:
        return None
    found = [Fraction(weights.get(corpus.name, "1")) for corpus in corpora]
    require(any(found), "corpus_weights", given, "at least one weight above 0")
    return found


def _parsed(given: str, names: Sequence[str], folder: str) -> dict[str, str]:
    known = (
        f"the corpora of {folder} are {', '.join(names)}"
        if names
        else (
            f"{folder} is not divided into corpora; name them when it is made: ds-bert preprocess "
            "--input_file NAME=INPUT:WEIGHT ..."
        )
    )
    weights = {}
    for item in given.split(","):
        name, is_there, weight = item.strip().partition("=")
        if name not in names or not is_there:
            raise ConfigurationError(
                f'corpus_weights: found {item!r}, expected NAME=WEIGHT,... or "{BY_SIZE}"; {known}'
            )
        require(_is_weight(weight), f"corpus_weights {name}", weight, "a number, 0 or more")
        weights[name] = weight
    return weights


def _is_weight(text: str) -> bool:
    try:
        return Fraction(text) >= 0
    except (ValueError, ZeroDivisionError):
        return False


def _slots(weights: Sequence[Fraction]) -> list[int]:
    """The smallest whole numbers in the ratio of the weights."""
    scale = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * scale) for weight in weights]
    slots = [number // math.gcd(*whole) for number in whole]
    expected = "numbers in a simple ratio, such as 2 and 1 or 0.7 and 0.3"
    require(sum(slots) <= _MAX_SLOTS, "corpus_weights", list(map(float, weights)), expected)
    return slots
