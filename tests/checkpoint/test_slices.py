"""The arithmetic of cutting a state anew: every element once, from the slices that hold it."""

import pytest
import torch

from ds_bert.checkpoint.resharding import Slice, fill
from ds_bert.errors import CheckpointError
from ds_bert.optim.flat_partition import partition_size

GROUPS = [[7, 30, 1, 25], [3, 5]]  # elements of each tensor
SIZES = [sum(tensors) for tensors in GROUPS]
KINDS = ("weights", "exp_avg", "exp_avg_sq")
CUTS = [0, 1, 2, 3, 4, 7, 50]  # ranks at stage 1, the last ones with padding alone; 0: stage 0


def value(kind: int, group: int) -> torch.Tensor:
    """Another number for each element of each vector, none of them 0."""
    return torch.arange(SIZES[group], dtype=torch.float32) + 1000 * (3 * group + kind) + 1


def cut(ranks: int, full: bool, padded: bool = True) -> list[list[Slice]]:
    """What each rank holds: the values, or zeros to be filled; masters with padding or without."""
    held = []
    for rank in range(max(ranks, 1)):
        held.append([])
        for group, tensors in enumerate(GROUPS):
            size = partition_size(SIZES[group], ranks) if ranks else 0
            lengths, start = ([size], rank * size) if ranks else (tensors, 0)
            for length in lengths:
                parts = []
                for kind in range(3):
                    part = value(kind, group)[start : start + length] * full
                    missing = length - len(part)
                    parts.append(torch.cat([part, torch.zeros(missing)]) if missing else part)
                inside = max(0, min(length, SIZES[group] - start))
                weights = parts[0] if padded or not full else parts[0][:inside]
                state = {"exp_avg": parts[1], "exp_avg_sq": parts[2], "step": torch.tensor(5.0)}
                held[-1].append(Slice(group, start, weights, state if full else {}))
                start += length
    return held


@pytest.mark.parametrize("after", CUTS)
@pytest.mark.parametrize("before", CUTS)
@pytest.mark.parametrize("padded", [True, False], ids=["BF16_Optimizer", "ZeRO"])
def test_any_cut_becomes_any_other(before, after, padded):
    sources = [source for rank in cut(before, True, padded) for source in rank]
    for targets, expected in zip(cut(after, False), cut(after, True), strict=True):
        fill(targets, sources, SIZES)
        for mine, wanted in zip(targets, expected, strict=True):
            assert torch.equal(mine.weights, wanted.weights)
            assert mine.state.keys() == wanted.state.keys()
            assert all(torch.equal(mine.state[name], wanted.state[name]) for name in wanted.state)


def test_nothing_is_there_before_the_first_update():
    sources = [Slice(s.group, s.start, s.weights, {}) for rank in cut(3, True) for s in rank]
    (targets,) = cut(1, False)
    fill(targets, sources, SIZES)
    assert [mine.state for mine in targets] == [{}, {}]


@pytest.mark.parametrize("change", [lambda s: s[:-2], lambda s: [*s, s[2]]], ids=["less", "twice"])
def test_a_part_that_is_missing_or_there_twice(change):
    sources = [source for rank in cut(3, True) for source in rank]
    with pytest.raises(CheckpointError, match=r"hold \d+ of the 71 weights"):
        fill(cut(1, False)[0], change(sources), SIZES)


def test_steps_that_contradict_each_other():
    ((first, *others),) = cut(0, True)
    first.state["step"] += 1
    with pytest.raises(CheckpointError, match="step of the optimizer differs between tensors"):
        fill(cut(1, False)[0], [first, *others], SIZES)
