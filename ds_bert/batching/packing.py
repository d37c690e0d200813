"""Sequences shared out among micro-batches by their lengths, and one shape for all of these.

A step's sequences are what they are; only which micro-batch each is in is chosen here. With one
shape, a micro-batch of m sequences has as many tokens as m sequences of the data have on average
and a little more. A step whose sequences are longer than that takes one more micro-batch on each
rank, of the same shape.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MULTIPLE = 16  # tokens, as products in fp8 need
_TRIALS = 4  # steps that are dealt out to see how evenly that goes
_LOWEST = 3.0  # standard deviations below the mean, for which there is still room to pad


class Shape(NamedTuple):
    """What each micro-batch is padded to; padding counts for nothing.

    Padding forms sequences of its own, of 1 to max_length tokens each.

    Attributes:
        num_tokens: T.
        num_sequences: of `cu_seqlens`, padding included.
        num_labels: sequences at most that have a label; those of a micro-batch of the recipe.
        num_masked: positions that the masked-LM head works on.
        max_length: tokens of a sequence at most.
    """

    num_tokens: int
    num_sequences: int
    num_labels: int
    num_masked: int
    max_length: int

    def fits(self, lengths: NDArray[np.int64]) -> bool:
        """Whether sequences of so many tokens can be padded to it."""
        spare, sequences = self.num_tokens - int(lengths.sum()), self.num_sequences - len(lengths)
        return len(lengths) <= self.num_labels and sequences <= spare <= sequences * self.max_length

    def __str__(self) -> str:
        return (
            f"{self.num_tokens:,} tokens, up to {self.num_labels:,} sequences, "
            f"{self.num_masked:,} masked tokens"
        )


def deal(lengths: NDArray[np.int64], num_batches: int) -> list[NDArray[np.int64]]:
    """Share sequences out, the same number to each batch, with nearly equal sums of tokens.

    The longest go to a batch each; then the longest of the others to the batch with the smallest
    sum, the next longest to the next smallest, and so on, round by round.

    Args:
        lengths: [N] tokens of each sequence.
        num_batches: how many to make, at most N.

    Returns:
        of each batch int64 [N / num_batches], rounded up or down: indices into lengths.

    Source: Graham 1969, "Bounds on Multiprocessing Timing Anomalies" (longest first).
    """
    order = np.argsort(-lengths, kind="stable")
    rounds = [order[first : first + num_batches] for first in range(0, len(order), num_batches)]
    sums = np.zeros(num_batches, np.int64)
    places = np.full((len(rounds), num_batches), -1)  # -1: none in the last round
    for number, chosen in enumerate(rounds):
        smallest = np.argsort(sums, kind="stable")[: len(chosen)]
        places[number, smallest] = chosen
        sums[smallest] += lengths[chosen]
    return [column[column >= 0] for column in places.T]


def deal_into(shape: Shape, lengths: NDArray[np.int64], world_size: int) -> list[NDArray[np.int64]]:
    """`deal` into as few micro-batches as fit a shape, equally many on each rank.

    Args:
        shape: from `choose_shape`.
        lengths: [N] tokens of the sequences of a step; N is a multiple of world_size.
        world_size: number of ranks.
    """
    num_batches = -(-len(lengths) // shape.num_labels // world_size) * world_size
    while True:
        dealt = deal(lengths, num_batches)
        if num_batches >= len(lengths) or all(shape.fits(lengths[each]) for each in dealt):
            return dealt
        num_batches += world_size


def choose_shape(
    lengths: NDArray[np.int64],
    micro_batch_size: int,
    num_batches: int,
    world_size: int,
    max_length: int,
    masked_share: float,
    max_masked: int,
) -> Shape:
    """The shape with which a step costs least: small, yet rarely too small for a step.

    The tokens of a step are a sum of many draws, so its distribution is normal.

    Args:
        lengths: tokens of the sequences of one step at least, as they come in the run.
        micro_batch_size: sequences of a micro-batch.
        num_batches: micro-batches of a step over all ranks.
        world_size: number of ranks.
        max_length: tokens of a sequence at most.
        masked_share: of a sequence's tokens are masked, but one at least.
        max_masked: tokens of a sequence that are masked at most.
    """
    size = micro_batch_size * num_batches
    mean, error = lengths.mean(), lengths.std() * math.sqrt(1 / size + 1 / len(lengths))
    need = mean * micro_batch_size + _unevenness(lengths, size, num_batches)
    deviation = error * micro_batch_size

    def cost(margin: float) -> float:
        is_too_small = 0.5 * math.erfc(margin / math.sqrt(2))
        return (need + margin * deviation) * (1 + is_too_small * world_size / num_batches)

    most = need + min(np.linspace(0, 5, 51), key=cost) * deviation
    least = mean * micro_batch_size - _LOWEST * deviation
    num_padding = 1 + math.ceil((most - least + _MULTIPLE) / max_length)
    num_sequences = micro_batch_size + num_padding
    num_tokens = max(math.ceil(most) + num_padding, max_length + num_sequences)
    num_tokens = -(-num_tokens // _MULTIPLE) * _MULTIPLE
    num_masked = min(
        max_masked * micro_batch_size, int(masked_share * num_tokens) + micro_batch_size
    )
    return Shape(num_tokens, num_sequences, micro_batch_size, num_masked, max_length)


def _unevenness(lengths: NDArray[np.int64], size: int, num_batches: int) -> float:
    """By how many tokens the largest micro-batch of a step exceeds their mean, on average."""
    steps = lengths[: len(lengths) // size * size].reshape(-1, size)[:_TRIALS]
    sums = [[step[each].sum() for each in deal(step, num_batches)] for step in steps]
    return float(np.mean([max(each) - np.mean(each) for each in sums]))
