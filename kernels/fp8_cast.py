"""The cast to fp8 in one pass: rows, their transpose, the largest value and column sums.

A program holds one tile in registers. It writes the tile as it is and, through shared memory,
turned, both as whole vectors. GELU, or its backward pass, is computed on the way, so that neither
its result nor its gradient stands in memory in 16 bits. Largest values and sums of tiles are put
together by a second, small kernel in a fixed order: no atomics, the same bits every time.
"""

import os

import torch
import triton
import triton.language as tl
from ds_bert_kernels.reference import fp8_cast as reference
from ds_bert_kernels.reference.fp8_cast import EXPONENTS, Cast, scale_for
from torch import Tensor

__all__ = ["Cast", "cast_to_fp8", "scale_for"]
BLOCK_T, BLOCK_K, NUM_WARPS = 64, 128, 8  # a tile
_BLOCK, _LANES = 64, 2048  # of the second kernel: columns, and tiles at once; largest values
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # its casts to fp8 are wrong
_ACTIVATIONS = {None: 0, "none": 1, "tanh": 2}


def cast_to_fp8(
    x: Tensor,
    scale: Tensor,
    dtype: torch.dtype,
    *,
    own_scale: bool = False,
    activation: str | None = None,
    inner: Tensor | None = None,
    transpose: bool = True,
    sums: bool = False,
) -> Cast:
    """See `ds_bert_kernels.reference.fp8_cast.cast_to_fp8`.

    Source: Transformer Engine's cast_transpose, cast_transpose_dbias and cast_transpose_dbias_dgelu
    kernels, for what is worth fusing.
    """
    if len(x) == 0:  # a kernel cannot be launched for no rows
        return reference.cast_to_fp8(
            x, scale, dtype, own_scale=own_scale, activation=activation, inner=inner,
            transpose=transpose, sums=sums,
        )  # fmt: skip
    T, K = x.shape
    padded = triton.cdiv(T, reference.ALIGNMENT) * reference.ALIGNMENT
    tiles = (triton.cdiv(T, BLOCK_T), triton.cdiv(K, BLOCK_K))
    rows = torch.empty(T, K, dtype=torch.uint8, device=x.device)
    columns = rows.new_empty((K, padded) if transpose else 0)
    maxima = rows.new_empty(tiles, dtype=torch.int32)
    partial = rows.new_empty((tiles[0], K) if sums else 0, dtype=torch.float32)
    totals = x.new_empty(K if sums else 0)
    amax, used = (partial.new_empty(()) for _ in range(2))
    constants = dict(
        E5M2=dtype == torch.float8_e5m2, ACTIVATION=_ACTIVATIONS[activation],
        IS_GRADIENT=inner is not None, BITS=_INTERPRETED, BLOCK_T=BLOCK_T, BLOCK_K=BLOCK_K,
        num_warps=NUM_WARPS,
    )  # fmt: skip
    x, inner = x.contiguous(), x if inner is None else inner.contiguous()
    if own_scale:
        _cast_tile[tiles](
            x, inner, scale, rows, columns, maxima, partial, used, T, K, padded,
            WRITES=False, TRANSPOSES=False, SUMS=False, **constants,
        )  # fmt: skip
        _put_together[(1,)](
            maxima, partial, amax, used, totals, maxima.numel(), tiles[0], K, EXPONENTS[dtype],
            SUMS=False, SCALES=True, BLOCK=_BLOCK, LANES=_LANES,
        )  # fmt: skip
    _cast_tile[tiles](
        x, inner, used if own_scale else scale, rows, columns, maxima, partial, used, T, K, padded,
        WRITES=True, TRANSPOSES=transpose, SUMS=sums, **constants,
    )  # fmt: skip
    _put_together[(triton.cdiv(K, _BLOCK) if sums else 1,)](
        maxima, partial, amax, used, totals, maxima.numel(), tiles[0], K, EXPONENTS[dtype],
        SUMS=sums, SCALES=False, BLOCK=_BLOCK, LANES=_LANES,
    )  # fmt: skip
    return Cast(rows.view(dtype), columns.view(dtype), amax, used, totals)


@triton.jit(do_not_specialize=["T"])  # one machine code for all numbers of tokens
def _cast_tile(
    x, inner, scale, rows, columns, maxima, partial, used, T, K, padded,
    E5M2: tl.constexpr, ACTIVATION: tl.constexpr, IS_GRADIENT: tl.constexpr,
    WRITES: tl.constexpr, TRANSPOSES: tl.constexpr, SUMS: tl.constexpr, BITS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of x [T, K]; its largest value as bits, which for absolute values sort as numbers.

    Offsets in a tile fit 32 bits; those of the tile itself may not.
    """
    tile, strip = tl.program_id(0), tl.program_id(1)
    t, k = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_K)
    is_row, is_column = tile * BLOCK_T + t < T, strip * BLOCK_K + k < K
    inside = is_row[:, None] & is_column[None, :]
    start = (tile * BLOCK_T).to(tl.int64) * K + strip * BLOCK_K
    place = t[:, None] * K + k[None, :]
    values = tl.load(x + start + place, mask=inside, other=0.0).to(tl.float32)
    if IS_GRADIENT:
        u = tl.load(inner + start + place, mask=inside, other=0.0).to(tl.float32)
        values *= _gelu_slope(u, ACTIVATION)
    elif ACTIVATION > 0:
        values = _gelu(values, ACTIVATION)
    bits = values.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # a maximum of floats would lose a NaN
    of_rows = tl.max(bits, 1)
    tl.store(maxima + tile * tl.num_programs(1) + strip, tl.max(of_rows, 0))
    if SUMS:
        columns_k = strip * BLOCK_K + k
        tl.store(partial + tile.to(tl.int64) * K + columns_k, tl.sum(values, 0), mask=is_column)
    if WRITES:
        factor = tl.load(scale)
        if (tile == 0) & (strip == 0):
            tl.store(used, factor)
        # The second part adds nothing, but ends what Triton 3.6 would compute twice: it turns the
        # 16-bit input rather than the bytes unless a reduction stands between.
        is_finite = (bits < 0x7F800000) | (of_rows < 0x7F800000)[:, None]
        result = _to_fp8(values * (1.0 / factor), is_finite, E5M2, BITS)
        tl.store(rows + start + place, result, mask=inside)
        if TRANSPOSES:  # rows behind T were read as zeros
            if not BITS:
                result = tl.inline_asm_elementwise(
                    "mov.b32 $0, $1;", "=r,r", [result], dtype=tl.uint8, is_pure=False, pack=4
                )
            start = (strip * BLOCK_K).to(tl.int64) * padded + tile * BLOCK_T
            place = k[:, None] * padded + t[None, :]
            inside = is_column[:, None] & (tile * BLOCK_T + t < padded)[None, :]
            tl.store(columns + start + place, tl.trans(result), mask=inside)


@triton.jit(do_not_specialize=["num_maxima", "num_tiles", "exponent"])
def _put_together(
    maxima, partial, amax, used, totals, num_maxima, num_tiles, K, exponent,
    SUMS: tl.constexpr, SCALES: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The largest of all tiles, and the sums of a block of columns over tiles, in their order."""
    if tl.program_id(0) == 0:
        lanes = tl.arange(0, LANES)
        largest = tl.zeros((LANES,), tl.int32)
        for start in range(0, num_maxima, LANES):
            inside = start + lanes < num_maxima
            largest = tl.maximum(largest, tl.load(maxima + start + lanes, mask=inside, other=0))
        bits = tl.max(largest, 0)
        tl.store(amax, bits.to(tl.float32, bitcast=True))
        if SCALES:  # as `scale_for`
            power = tl.minimum(tl.maximum(((bits + 0x1FFFFF) >> 23) - exponent, 1), 253)
            tl.store(used, (power << 23).to(tl.float32, bitcast=True))
    if SUMS:
        columns, tiles = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK, BLOCK), tl.float32)
        for start in range(0, num_tiles, BLOCK):
            place = (start + tiles).to(tl.int64)[:, None] * K + columns[None, :]
            inside = (start + tiles < num_tiles)[:, None] & (columns < K)[None, :]
            total += tl.load(partial + place, mask=inside, other=0.0)
        result = tl.sum(total, 0).to(totals.dtype.element_ty)
        tl.store(totals + columns, result, mask=columns < K)


@triton.jit
def _gelu(u, ACTIVATION: tl.constexpr):
    if ACTIVATION == 1:
        share, _ = _normal(u)
        return u * share
    return u * _sigmoid(1.5957691216057308 * (u + 0.044715 * u * u * u))


@triton.jit
def _gelu_slope(u, ACTIVATION: tl.constexpr):
    if ACTIVATION == 1:
        share, density = _normal(u)
        return share + u * density
    share = _sigmoid(1.5957691216057308 * (u + 0.044715 * u * u * u))
    inner = 1.5957691216057308 * (1.0 + 0.134145 * u * u)
    return share + u * share * (1.0 - share) * inner


@triton.jit
def _normal(u):
    """The normal distribution's cumulative share, to 1e-7, and density, of one exponential.

    Source: Abramowitz, Stegun 1964, 7.1.26: a third of the instructions of erf and exp.
    """
    exponential = tl.exp(-0.5 * u * u)
    t = 1.0 / (1.0 + 0.23164189 * tl.abs(u))  # 0.3275911 / sqrt(2)
    tail = 0.5 * exponential * t * (
        0.254829592
        + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )  # fmt: skip
    return tl.where(u < 0, tail, 1.0 - tail), 0.3989422804014327 * exponential


@triton.jit
def _sigmoid(z):
    """0.5 (1 + tanh(z / 2)): the tanh of GELU's approximation, without libdevice."""
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def _to_fp8(y, is_finite, E5M2: tl.constexpr, BITS: tl.constexpr):
    """Round to nearest even; too large: the largest number; not finite: NaN. Returns bytes."""
    largest: tl.constexpr = 57344.0 if E5M2 else 448.0
    y = tl.minimum(tl.maximum(y, -largest), largest)
    if BITS:
        result = _to_bits(y, E5M2)
    elif E5M2:
        result = y.to(tl.float8e5).to(tl.uint8, bitcast=True)
    else:
        result = y.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    return tl.where(is_finite, result, 0x7F).to(tl.uint8)


@triton.jit
def _to_bits(y, E5M2: tl.constexpr):
    """The same by integers, of numbers in the format's range: for the interpreter.

    A large enough power of two added to a small number leaves it rounded in the lowest bits.
    """
    DROPPED: tl.constexpr = 21 if E5M2 else 20  # bits of fp32's mantissa
    BIAS: tl.constexpr = (127 - 15) << 2 if E5M2 else (127 - 7) << 3
    SHIFT: tl.constexpr = 128.0 if E5M2 else 16384.0  # whose last bit is the smallest number
    LEAST: tl.constexpr = 6.103515625e-05 if E5M2 else 0.015625  # normal number
    size = tl.abs(y)
    bits = size.to(tl.int32, bitcast=True)
    normal = ((bits + ((1 << (DROPPED - 1)) - 1) + ((bits >> DROPPED) & 1)) >> DROPPED) - BIAS
    small = (size + SHIFT).to(tl.int32, bitcast=True) & 0xFF
    result = tl.where(size < LEAST, small, normal)
    return tl.where(y.to(tl.int32, bitcast=True) < 0, result | 0x80, result).to(tl.uint8)
