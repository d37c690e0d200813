"""Random numbers by counter for dropout inside of Triton kernels; see `reference/philox.py`.

One call makes four numbers. A call for each number, as `tl.rand` does it, takes more instructions
than all else in dropout, addition and LayerNorm.
"""

import triton
import triton.language as tl


@triton.jit
def random_bits(seed, counter0, counter1, counter2):
    """Four independent int32 numbers for each counter, uniform over all of int32.

    Args:
        seed: int64 scalar.
        counter0: int32 block or scalar, not negative.
        counter1: likewise, of a shape that counter0's broadcasts with; so is counter2.
        counter2: likewise.
    """
    zero = counter0 * 0
    first, second, third, fourth = tl.philox(seed, counter0, counter1 + zero, counter2 + zero, zero)
    return (
        first.to(tl.int32, bitcast=True),
        second.to(tl.int32, bitcast=True),
        third.to(tl.int32, bitcast=True),
        fourth.to(tl.int32, bitcast=True),
    )


@triton.jit
def keep_row(seed, row, threshold, BLOCK: tl.constexpr):
    """Mask [BLOCK] of the first columns of a row; twin: `keep_mask` of `reference/philox.py`.

    Args:
        seed: int64 scalar.
        row: int32 scalar.
        threshold: int32 scalar, `ds_bert_kernels.reference.philox.threshold(dropout)`.
        BLOCK: a power of two, at least 4.
    """
    first, second, third, fourth = random_bits(seed, tl.arange(0, BLOCK // 4), row, 0)
    # Joined this way the four numbers of a counter stand side by side, as a thread's elements do.
    bits = tl.join(tl.join(first, third), tl.join(second, fourth))
    return tl.reshape(bits, (BLOCK,)) >= threshold
