"""Matrix products of a training step: their shapes, and the time of one by its tiles."""

from functools import cache
from math import ceil

from time_model.gpus import FP8_GAIN, Ceilings, Shape

_TILES = ((128, 256), (256, 128), (128, 128))
_SMALL_TILE = 0.9  # speed of 128 x 128, which reuses less of what it loads
_MAX_SPLITS = 16
VOCAB_MULTIPLE = 128  # to which kernels/masked_lm_head.py pads


def of_linear(rows: int, num_outputs: int, num_inputs: int) -> list[Shape]:
    """(m, n, k) of forward, input gradient and weight gradient of a linear layer."""
    return [
        (rows, num_outputs, num_inputs),
        (rows, num_inputs, num_outputs),
        (num_outputs, num_inputs, rows),
    ]


def of_layer(tokens: int, hidden_size: int) -> list[Shape]:
    """Query, key and value in one; output; up to 4 H and down."""
    size, inner = hidden_size, 4 * hidden_size
    sides = ((3 * size, size), (size, size), (inner, size), (size, inner))
    return [shape for side in sides for shape in of_linear(tokens, *side)]


def of_head(masked: int, sequences: int, hidden_size: int, vocab_size: int) -> list[Shape]:
    """Transform and decoder of the masked positions, and the pooler."""
    columns = ceil(vocab_size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    return [
        *of_linear(masked, hidden_size, hidden_size),
        *of_linear(masked, columns, hidden_size),
        *of_linear(sequences, hidden_size, hidden_size),
    ]


def flops(shapes: list[Shape]) -> int:
    return sum(2 * m * n * k for m, n, k in shapes)


def seconds(shapes: list[Shape], ceilings: Ceilings, dtype: str = "bf16") -> float:
    """Time of products one after the other: measured where they were, else by their tiles."""
    return sum(_seconds(shape, ceilings, dtype) for shape in shapes)


def _seconds(shape: Shape, ceilings: Ceilings, dtype: str) -> float:
    if measured := ceilings.measured_product(shape, dtype):
        return flops([shape]) / measured
    speed = ceilings.product * (FP8_GAIN if dtype == "fp8" else 1)
    return tiled(*shape, speed, ceilings.tile, ceilings.num_sms, ceilings.elementwise)


@cache
def tiled(
    m: int, n: int, k: int, speed: float, tile: float, num_sms: int, bandwidth: float
) -> float:
    """Seconds of the best choice of tiles and of pieces along k.

    All multiprocessors work on one tile each; the last wave may leave some idle. Pieces are
    summed in fp32: written once each, read, and written as one.

    Args:
        m, n, k: sides, [m, k] by [k, n].
        speed: of all multiprocessors, FLOP/s.
        tile: seconds that a tile takes beside its multiplications.
        num_sms: multiprocessors.
        bandwidth: bytes/s.
    """
    times = []
    for height, width in _TILES:
        pace = speed / num_sms * (_SMALL_TILE if height == width else 1)
        for splits in range(1, _MAX_SPLITS + 1):
            waves = ceil(ceil(m / height) * ceil(n / width) * splits / num_sms)
            work = waves * (2 * height * width * k / splits / pace + tile)
            joining = 4 * m * n * (splits + 1) / bandwidth if splits > 1 else 0.0
            times.append(work + joining)
    return min(times)
