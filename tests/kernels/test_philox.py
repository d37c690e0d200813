"""Random numbers by counter: known answers, the kernel's beside its twin's, rates, independence."""

import pytest
import torch
import triton
import triton.language as tl
from ds_bert_kernels.philox import keep_row, random_bits
from ds_bert_kernels.reference import philox as reference

# Of the authors' own tests: key, counters, numbers.
KNOWN = [
    (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (2**64 - 1, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        0x299F31D0A4093822,
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words(numbers):
    return tuple(int(number) & 0xFFFFFFFF for number in numbers)


def signed(seed):
    return torch.tensor([seed - 2**64 if seed >= 2**63 else seed])


def slow_philox(seed, counters):
    """Philox 4x32-10 in Python's integers."""
    state, keys = list(counters), [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        first, second = 0xD2511F53 * state[0], 0xCD9E8D57 * state[2]
        state = [
            (second >> 32) ^ state[1] ^ keys[0], second & 0xFFFFFFFF,
            (first >> 32) ^ state[3] ^ keys[1], first & 0xFFFFFFFF,
        ]  # fmt: skip
        keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
    return tuple(state)


@pytest.mark.parametrize("seed, counters, answer", KNOWN)
def test_known_answers(seed, counters, answer):
    assert slow_philox(seed, counters) == answer


@pytest.mark.parametrize("seed", [1, 2**32 + 7, 2**63 - 2, 0xA4093822299F31D0])
def test_twin_is_philox(seed):
    for counters in [(0, 0, 0), (1, 2, 3), (2**31 - 1, 2**31 - 1, 2**31 - 1)]:
        found = reference.random_bits(signed(seed), *map(torch.tensor, counters))
        assert words(found) == slow_philox(seed, (*counters, 0))


@triton.jit
def write(seed, out, kept, row, head, limit, BLOCK: tl.constexpr):
    places = tl.arange(0, BLOCK)
    value = tl.load(seed)
    a, b, c, d = random_bits(value, places, row, head)
    tl.store(out + places, a)
    tl.store(out + BLOCK + places, b)
    tl.store(out + 2 * BLOCK + places, c)
    tl.store(out + 3 * BLOCK + places, d)
    columns = tl.arange(0, 4 * BLOCK)
    tl.store(kept + columns, keep_row(value, row, limit, 4 * BLOCK))


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 0.9, 1 - 2**-32])
def test_kernel_and_twin_give_the_same_bits(dropout):
    for seed, row, head in [(0, 0, 0), (2**63 - 1, 5, 0), (2**40 + 3, 2**31 - 1, 11)]:
        out = torch.empty(4, 64, dtype=torch.int32)
        kept = torch.empty(256, dtype=torch.bool)
        limit = reference.threshold(dropout)
        write[(1,)](torch.tensor([seed]), out, kept, row, head, limit, BLOCK=64)
        expected = reference.random_bits(torch.tensor([seed]), torch.arange(64), row, head)
        assert torch.equal(out, torch.stack(expected))
        of_row = reference.random_bits(torch.tensor([seed]), torch.arange(64), row)
        assert torch.equal(kept, torch.stack(of_row, 1).flatten() >= limit)


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 0.999])
def test_rate(dropout):
    kept = reference.keep_mask(torch.tensor([3]), 500, 1001, dropout)
    deviation = (dropout * (1 - dropout) / kept.numel()) ** 0.5
    assert abs(1 - kept.double().mean() - dropout) <= 5 * deviation
    for axis in (0, 1):  # of each column, and of each row
        rates = 1 - kept.double().mean(axis)
        limit = 6 * (dropout * (1 - dropout) / kept.shape[axis]) ** 0.5
        assert (rates - dropout).abs().max() <= limit + 1e-12


def test_masks_of_different_seeds_rows_and_columns_are_independent():
    torch.manual_seed(1)
    seeds = reference.draw_seeds(3, torch.device("cpu"))
    first, second, third = (
        reference.keep_mask(seeds[i : i + 1], 400, 1000, 0.5).double() * 2 - 1 for i in range(3)
    )
    pairs = [(first, second), (second, third), (first[:-1], first[1:])]
    pairs += [(first[:, :-step], first[:, step:]) for step in (1, 4)]
    for one, other in pairs:
        assert abs(float((one * other).mean())) < 5 * one.numel() ** -0.5


def test_seeds_follow_the_random_state():
    device = torch.device("cpu")
    torch.manual_seed(7)
    first, second = reference.draw_seeds(4, device), reference.draw_seeds(4, device)
    torch.manual_seed(7)
    assert torch.equal(first, reference.draw_seeds(4, device))
    assert len({*first.tolist(), *second.tolist()}) == 8
    assert torch.equal(second, reference.draw_seeds(4, device))
