"""Sums over the rows of a matrix that kernels take on their way, in two stages of fixed order.

A program that has passed some rows leaves their sums; a second kernel adds up what all have left.
No atomics, and nothing depends on the device: the same input gives the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_LEAST_ROWS = 16  # of a program: it leaves 4 bytes a column, which are written and read
_MOST_PROGRAMS = 1024
_COLUMNS, _ROWS = 32, 64  # of a tile


def rows_per_program(num_rows: int) -> int:
    """How many of T rows a program of the first stage passes."""
    return max(_LEAST_ROWS, triton.cdiv(num_rows, _MOST_PROGRAMS))


def add_up(partials: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The second stage.

    Args:
        partials: fp32 [K, P, N], up to four sums of each of P programs; P may be 0.
        dtype: of the result.

    Returns:
        K sums [N].
    """
    kinds, num_programs, num_columns = partials.shape
    sums = tuple(partials.new_empty(num_columns, dtype=dtype) for _ in range(kinds))
    _column_sums[(triton.cdiv(num_columns, _COLUMNS), kinds)](
        partials, *sums, *sums[:1] * (4 - kinds), num_programs, num_columns,
        COLUMNS=_COLUMNS, ROWS=_ROWS, num_warps=4,
    )  # fmt: skip
    return sums


@triton.jit
def _column_sums(
    partials, first, second, third, fourth, num_programs, num_columns,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Sums of one kind over the programs, for some columns."""
    kind = tl.program_id(1)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    rows = tl.arange(0, ROWS)
    partials += kind.to(tl.int64) * num_programs * num_columns
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, num_programs, ROWS):
        inside = (start + rows < num_programs)[:, None] & (columns < num_columns)[None, :]
        places = (start + rows)[:, None] * num_columns + columns[None, :]
        total += tl.load(partials + places, mask=inside, other=0.0)
    result = tl.sum(total, 0)
    if kind == 0:
        tl.store(first + columns, result, mask=columns < num_columns)
    elif kind == 1:
        tl.store(second + columns, result, mask=columns < num_columns)
    elif kind == 2:
        tl.store(third + columns, result, mask=columns < num_columns)
    else:
        tl.store(fourth + columns, result, mask=columns < num_columns)
