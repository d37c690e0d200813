"""How fast training will be, on GPUs by name or here, before anything has been trained."""

import time

import torch

from ds_bert import distributed
from ds_bert.costs.gpus import ASSUMED_MFU, assumed_speed, named
from ds_bert.costs.hours import Speed
from ds_bert.model.flops import peak_flops

_SHAPE = (512, 768, 3072)  # of BERT-base's largest product of a layer
_SECONDS = 0.5
_CPU_SHARE = 0.5  # of a product's speed that training reaches on a CPU. Assumed


def speed_of(on: str | None, mfu: float | None = None) -> tuple[Speed, bool]:
    """Operations per second, and whether they are a GPU's.

    Args:
        on: GPUs by name; None: this process' device.
        mfu: share of the peak; None: what is assumed.

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
    product = _product_speed(device)
    source = f"of this device: {_CPU_SHARE:.0%} (assumed) of a product's {product:.3g}, just timed"
    return Speed(_CPU_SHARE * product, source), device.type == "cuda"


def _product_speed(device: torch.device) -> float:
    """Of the fastest of some products, which was disturbed least."""
    rows, inner, columns = _SHAPE
    left, right = torch.rand(rows, inner, device=device), torch.rand(inner, columns, device=device)
    end, fastest = time.monotonic() + _SECONDS, float("inf")
    while time.monotonic() < end or fastest == float("inf"):
        start = time.perf_counter()
        (left @ right)[0, 0].item()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * rows * inner * columns / fastest
