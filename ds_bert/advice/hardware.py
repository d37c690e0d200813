"""How fast training will be, on GPUs by name or here, before anything has been trained."""

import time

import torch
import torch.nn.functional as F

from ds_bert import distributed
from ds_bert.costs.gpus import ASSUMED_MFU, assumed_speed, named
from ds_bert.costs.hours import Speed
from ds_bert.model.flops import peak_flops

_SHAPE = (512, 768, 3072)  # of BERT-base's largest product of a layer
_SECONDS = 0.5
_CPU_SHARE = 0.5  # of a product's speed that training reaches on a CPU. Assumed
_MORE = 1.2  # so many times faster are products in bf16 where it pays


def speed_of(
    on: str | None, mfu: float | None = None, bf16: bool | None = None
) -> tuple[Speed, bool]:
    """Operations per second, and whether that is in bf16.

    Args:
        on: GPUs by name; None: this process' device.
        mfu: share of the peak; None: what is assumed.
        bf16: in what a CPU computes; None: in what it is faster.

    Raises:
        ConfigurationError: a GPU that is not known.
    """
    if on is not None:
        return assumed_speed(named(on), mfu), True
    device = distributed.local_device()
    peak = peak_flops(device)
    if peak is not None:
        share = ASSUMED_MFU if mfu is None else mfu
        return Speed(peak * share, f"of this GPU at {share:.0%} of its peak, not measured"), True
    half, single = (
        0.0 if bf16 not in (None, is_half) else _product_speed(device, dtype)
        for is_half, dtype in ((True, torch.bfloat16), (False, torch.float32))
    )
    is_half = half > _MORE * single
    product, name = (half, "bf16") if is_half else (single, "fp32")
    source = (
        f"of this device: {_CPU_SHARE:.0%} (assumed) of a product's {product:.3g} in {name}, "
        "just timed"
    )
    return Speed(_CPU_SHARE * product, source), is_half


def _product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Of the fastest of some products, which was disturbed least."""
    rows, inner, columns = _SHAPE
    x, weight = (torch.rand(n, inner, device=device, dtype=dtype) for n in (rows, columns))
    end, fastest = time.monotonic() + _SECONDS, float("inf")
    while time.monotonic() < end or fastest == float("inf"):
        start = time.perf_counter()
        F.linear(x, weight)[0, 0].item()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * rows * inner * columns / fastest
