"""Random numbers by counter for dropout: plain torch, bit for bit those of `kernels/philox.py`.

A generator without state: number = Philox(seed, counter). Forward and backward, a kernel and its
twin, compute the same numbers from the same counters, so no mask is stored.

Source: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3" (Philox 4x32-10).
"""

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_ROUNDS = 10
_FACTORS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85


def draw_seeds(count: int, device: torch.device) -> Tensor:
    """Seeds from torch's random state of a device, so a run that resumes draws the same ones.

    On the device and without waiting for it. Each place where something is dropped takes its own,
    in each pass: then what one place drops says nothing about another.

    Returns:
        int64 [count]; a kernel takes a piece [1] of it.
    """
    return torch.randint(torch.iinfo(torch.int64).max, (count,), device=device)


def threshold(dropout: float) -> int:
    """What `random_bits` are compared with: an element is kept where they are not below.

    Args:
        dropout: probability in [0, 1], exact to 2**-32.
    """
    return min(int(dropout * 2**32), _WORD) - 2**31


def scale(dropout: float) -> float:
    """What kept elements are multiplied by."""
    return 1 / (1 - dropout) if dropout < 1 else 0.0


def random_bits(
    seed: Tensor, counter0: Tensor, counter1: Tensor | int = 0, counter2: Tensor | int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four independent numbers for each counter.

    Args:
        seed: int64, one element, on the device of the counters.
        counter0: integers [...] in [0, 2**31).
        counter1: likewise, of a shape that counter0's broadcasts with; so is counter2.
        counter2: likewise.

    Returns:
        int32 numbers of these shapes, uniform over all of int32.
    """
    counters = [torch.as_tensor(c, device=seed.device).long() for c in (counter0, counter1)]
    state = [*counters, torch.as_tensor(counter2, device=seed.device).long(), seed.new_zeros(())]
    keys = [seed.view(()) & _WORD, (seed.view(()) >> 32) & _WORD]
    for _ in range(_ROUNDS):
        (high0, low0), (high1, low1) = map(_product, _FACTORS, (state[0], state[2]))
        state = [high1 ^ state[1] ^ keys[0], low1, high0 ^ state[3] ^ keys[1], low0]
        keys = [(key + step) & _WORD for key, step in zip(keys, _KEY_STEPS, strict=True)]
    shape = torch.broadcast_shapes(*(word.shape for word in state))
    first, second, third, fourth = (word.to(torch.int32).expand(shape) for word in state)
    return first, second, third, fourth


def _product(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a product of two 32-bit words, of which int64 holds 48 bits at once."""
    low, high = word & 0xFFFF, word >> 16
    low, high = factor * low, factor * high
    high = high + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def keep_mask(seed: Tensor, num_rows: int, num_columns: int, dropout: float) -> Tensor:
    """Which elements of a matrix dropout keeps.

    Number w of counter (c, row) is about the element in column 4 c + w of that row.

    Args:
        seed: int64, one element, on any device.
        num_rows: T.
        num_columns: H.
        dropout: probability in [0, 1].

    Returns:
        bool [T, H].
    """
    columns = torch.arange(-(-num_columns // 4), device=seed.device)
    rows = torch.arange(num_rows, device=seed.device)[:, None]
    bits = torch.stack(random_bits(seed, columns, rows), -1).flatten(1)
    return bits[:, :num_columns] >= threshold(dropout)
