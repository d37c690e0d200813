"""Plain-torch twin of the cast to fp8."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGNMENT = 16  # elements; fp8 products sum over rows of whole 16-byte pieces
# Of both formats the largest number is 1.75 times a power of two: 448 and 57344.
EXPONENTS = {torch.float8_e4m3fn: 8, torch.float8_e5m2: 15}
_UP_TO_1_75 = 0x1FFFFF  # added to the bits of a float, it carries if the mantissa is larger


class Cast(NamedTuple):
    """A tensor [T, K] in fp8.

    Attributes:
        rows: fp8 [T, K].
        columns: fp8 [K, T'], its transpose, T' the next multiple of 16; zeros behind T. Empty if
            not asked for.
        amax: fp32 [], the largest absolute value before rounding; NaN or infinity if there is one.
        scale: fp32 [], what `rows` and `columns` are to be multiplied by.
        sums: [K], of each column before rounding, in the dtype of x. Empty if not asked for.
    """

    rows: Tensor
    columns: Tensor
    amax: Tensor
    scale: Tensor
    sums: Tensor


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
    """`(x / scale).to(dtype)`, its transpose, its largest value and its sums, read once.

    What is too large for the format becomes its largest number. Infinity and NaN become NaN.

    Args:
        x: [T, K], contiguous, K a multiple of 16; T may be 0.
        scale: fp32 [], a power of two.
        dtype: torch.float8_e4m3fn or float8_e5m2.
        own_scale: take the scale that `scale_for` gives for the tensor's own largest value instead
            of `scale`; x is read twice.
        activation: the `approximate` of `F.gelu`, which x goes through first; None: no GELU.
        inner: [T, K], what the GELU was taken of: x is a gradient and goes through the GELU's
            backward pass instead.
        transpose: whether `columns` are wanted.
        sums: whether `sums` are wanted; added up in fp32, in a fixed order.
    """
    values = x.float()
    if inner is not None:
        values = torch.ops.aten.gelu_backward(values, inner.float(), approximate=activation)
    elif activation is not None:
        values = F.gelu(values, approximate=activation)
    amax = values.abs().amax() if values.numel() else values.new_zeros(())
    used = scale_for(amax, dtype) if own_scale else scale.clone()
    rows = _rounded(values, 1 / used, dtype)
    empty = x.new_empty(0)
    columns = _turned(rows) if transpose else empty.to(dtype)
    return Cast(rows, columns, amax, used, values.sum(0).to(x.dtype) if sums else empty)


def _turned(rows: Tensor) -> Tensor:
    padded = F.pad(rows.view(torch.uint8), (0, 0, 0, -len(rows) % ALIGNMENT))
    return padded.t().contiguous().view(rows.dtype)


def _rounded(values: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """Versions of torch differ in what becomes of numbers that are too large."""
    largest = torch.finfo(dtype).max
    fitting = (values * factor).clamp(-largest, largest)
    return fitting.masked_fill(values.isinf(), torch.nan).to(dtype)


def scale_for(amax: Tensor, dtype: torch.dtype, margin: int = 0) -> Tensor:
    """The smallest power of two s with amax / s <= 2^-margin times the format's largest number.

    To multiply by a power of two is exact, so a tensor is rounded once, and in a format with
    exponents a scale that is up to a bit too large costs no accuracy but for the smallest numbers.

    Args:
        amax: fp32, of any shape, 0 or larger. 0 gives the smallest normal number.
        dtype: torch.float8_e4m3fn or float8_e5m2.
        margin: bits that are left free for larger numbers.
    """
    exponent = ((amax.view(torch.int32) + _UP_TO_1_75) >> 23) + (margin - EXPONENTS[dtype])
    return (exponent.clamp(1, 253) << 23).view(torch.float32)
